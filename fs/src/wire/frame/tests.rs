use super::*;
use crate::config::{Durability, SyncMode};
use crate::control::status::Standing;
use crate::exclude::{PATTERNS_BYTES_MAX, PATTERNS_MAX};
use crate::operation::{
    Applied, Attributes, COPY_BYTES_MAX, NAME_BYTES_MAX, Name, NodeKind, Outcome, Unlink, Victim,
    XATTR_BYTES_MAX, XattrMode, XattrName,
};
use crate::record::decision::CopyState;
use crate::record::split_brain::Change;
use crate::record::{CopyKind, HISTORY_MAX, History, Role};
use crate::wire::bulk::*;
use crate::wire::limits::*;
use crate::wire::message::*;
use crate::wire::samples;
use proptest::prelude::*;

fn flat<M>(encoded: Encoded<M>) -> Vec<u8> {
    encoded.into_chunks().flatten().collect()
}

fn write(data: Bytes) -> ToSecondary {
    ToSecondary::Operation {
        number: Number(7),
        confirmed: Number(5),
        introduced: vec![],
        operation: Operation::Write {
            inode: InodeId(3),
            offset: 4096,
            data,
            time: None,
            mode: None,
        },
    }
}

fn operation(operation: Operation) -> ToSecondary {
    ToSecondary::Operation {
        number: Number(1),
        confirmed: Number(0),
        introduced: vec![],
        operation,
    }
}

/// Every message of `bytes`, pushed in pieces of `piece` bytes.
fn decode_in_pieces<M: Message>(bytes: &[u8], piece: usize) -> Result<(Vec<M>, Decoder<M>), WireError> {
    let mut decoder = Decoder::default();
    let mut messages = vec![];
    for chunk in bytes.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    Ok((messages, decoder))
}

fn check_round_trip<M: Message + Clone + PartialEq + std::fmt::Debug>(
    messages: Vec<M>,
    piece: usize,
) -> Result<(), TestCaseError> {
    let mut bytes = vec![];
    for message in &messages {
        let encoded = message.encode().unwrap();
        prop_assert_eq!(
            encoded.length(),
            encoded
                .clone()
                .into_chunks()
                .map(|chunk| chunk.len())
                .sum::<usize>()
        );
        bytes.extend(flat(encoded));
    }
    let (decoded, decoder) = decode_in_pieces::<M>(&bytes, piece).unwrap();
    prop_assert_eq!(decoded, messages);
    prop_assert_eq!(decoder.finish(), Ok(()));
    Ok(())
}

fn check_truncated<M: Message>(message: M, cut: prop::sample::Index) -> Result<(), TestCaseError> {
    let bytes = flat(message.encode().unwrap());
    let cut = cut.index(bytes.len());
    let (decoded, decoder) = decode_in_pieces::<M>(&bytes[..cut], 1000).unwrap();
    prop_assert!(decoded.is_empty());
    match cut {
        0 => prop_assert_eq!(decoder.finish(), Ok(())),
        have => prop_assert_eq!(decoder.finish(), Err(WireError::Truncated { have })),
    }
    Ok(())
}

/// Whatever decodes is within its limits and can be sent on.
fn check_total<M: Message>(body: Vec<u8>) {
    if let Ok(message) = M::decode(body.into()) {
        message.encode().unwrap();
    }
}

proptest! {
    #[test]
    fn messages_to_the_secondary_survive_the_way_in_pieces_of_any_size(
        messages in prop::collection::vec(samples::to_secondary(), 0..6), piece in 1..20_000usize,
    ) {
        check_round_trip(messages, piece)?;
    }

    #[test]
    fn messages_to_the_primary_survive_the_way_in_pieces_of_any_size(
        messages in prop::collection::vec(samples::to_primary(), 0..6), piece in 1..20_000usize,
    ) {
        check_round_trip(messages, piece)?;
    }

    #[test]
    fn a_truncated_frame_to_the_secondary_is_incomplete(
        message in samples::to_secondary(), cut in any::<prop::sample::Index>(),
    ) {
        check_truncated(message, cut)?;
    }

    #[test]
    fn a_truncated_frame_to_the_primary_is_incomplete(
        message in samples::to_primary(), cut in any::<prop::sample::Index>(),
    ) {
        check_truncated(message, cut)?;
    }

    #[test]
    fn messages_to_the_target_survive_the_way_in_pieces_of_any_size(
        messages in prop::collection::vec(samples::to_target(), 0..6), piece in 1..20_000usize,
    ) {
        check_round_trip(messages, piece)?;
    }

    #[test]
    fn messages_to_the_source_survive_the_way_in_pieces_of_any_size(
        messages in prop::collection::vec(samples::to_source(), 0..6), piece in 1..20_000usize,
    ) {
        check_round_trip(messages, piece)?;
    }

    #[test]
    fn a_truncated_frame_of_a_copy_is_incomplete(
        message in samples::to_target(), reply in samples::to_source(), cut in any::<prop::sample::Index>(),
    ) {
        check_truncated(message, cut)?;
        check_truncated(reply, cut)?;
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check_total::<ToSecondary>(bytes.clone());
        check_total::<ToPrimary>(bytes.clone());
        check_total::<ToTarget>(bytes.clone());
        check_total::<ToSource>(bytes.clone());
        // The error, if any, is what a stream of noise deserves.
        if let Ok((messages, _)) = decode_in_pieces::<ToSecondary>(&bytes, 7) {
            messages.iter().for_each(|message| assert!(message.check().is_ok()));
        }
    }

    #[test]
    fn a_damaged_frame_is_a_message_or_an_error(
        message in samples::to_secondary(), reply in samples::to_primary(),
        request in samples::to_target(), answer in samples::to_source(),
        at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        check_damaged(message, at, flip);
        check_damaged(reply, at, flip);
        check_damaged(request, at, flip);
        check_damaged(answer, at, flip);
    }
}

fn check_damaged<M: Message>(message: M, at: prop::sample::Index, flip: u8) {
    let mut bytes = flat(message.encode().unwrap()).split_off(4);
    let place = at.index(bytes.len());
    bytes[place] ^= flip;
    check_total::<M>(bytes);
}

#[test]
fn the_data_of_a_write_is_not_copied_when_encoded() {
    let data = Bytes::from(vec![7; 4096]);
    let encoded = write(data.clone()).encode().unwrap();
    assert_eq!(encoded.payload.unwrap().as_ptr(), data.as_ptr());
    assert!(encoded.head.len() < 32);
}

#[test]
fn the_data_of_a_write_that_came_in_one_piece_is_not_copied_when_decoded() {
    let bytes = Bytes::from(flat(write(Bytes::from(vec![7; 4096])).encode().unwrap()));
    let mut decoder = Decoder::<ToSecondary>::default();
    decoder.push(bytes.clone());
    let Some(ToSecondary::Operation {
        operation: Operation::Write { data, .. },
        ..
    }) = decoder.next().unwrap()
    else {
        panic!("not a write");
    };
    assert_eq!(data.as_ptr(), bytes[bytes.len() - 4096..].as_ptr());
}

#[test]
fn the_bytes_of_a_write_are_those_of_the_documentation() {
    let bytes = flat(write(Bytes::from_static(b"ab")).encode().unwrap());
    assert_eq!(bytes, [0, 0, 0, 11, 1, 7, 5, 0, 3, 0x80, 0x20, 0, 0, b'a', b'b']);
}

#[test]
fn a_frame_that_announces_too_much_is_refused_before_its_body_arrives() {
    let mut decoder = Decoder::<ToSecondary>::default();
    decoder.push(Bytes::copy_from_slice(
        &(TO_SECONDARY_BYTES_MAX as u32 + 1).to_be_bytes(),
    ));
    let error = decoder.next().unwrap_err();
    assert_eq!(
        error,
        WireError::FrameTooLong {
            length: TO_SECONDARY_BYTES_MAX + 1,
            max: TO_SECONDARY_BYTES_MAX
        }
    );
}

#[test]
fn bytes_after_a_message_are_refused() {
    let mut body = flat(ToSecondary::End.encode().unwrap()).split_off(4);
    body.push(0);
    let error = ToSecondary::decode(body.into()).unwrap_err();
    assert!(matches!(error, WireError::Malformed { .. }), "{error}");
}

#[test]
fn a_write_in_the_form_of_another_message_is_refused() {
    let mut body = vec![KIND_MESSAGE];
    body.extend(postcard::to_stdvec(&write(Bytes::from_static(b"a"))).unwrap());
    assert!(
        ToSecondary::decode(body.into())
            .unwrap_err()
            .to_string()
            .contains("in the form of another")
    );
}

#[test]
fn an_empty_frame_and_an_unknown_kind_are_refused() {
    for body in [vec![], vec![2, 4]] {
        assert!(ToSecondary::decode(body.clone().into()).is_err());
        assert!(ToPrimary::decode(body.into()).is_err());
    }
}

#[test]
fn a_name_that_leaves_its_directory_is_refused() {
    let unlink = Unlink {
        parent: InodeId(1),
        name: Name::new(b"xx").unwrap(),
        directory: false,
        victim: Victim {
            inode: InodeId(2),
            last: true,
        },
        time: Timestamp {
            seconds: 0,
            nanoseconds: 0,
        },
    };
    let mut body = flat(operation(Operation::Unlink(unlink)).encode().unwrap()).split_off(4);
    let place = body.windows(2).position(|pair| pair == b"xx").unwrap();
    body[place..place + 2].copy_from_slice(b"..");
    assert!(ToSecondary::decode(body.into()).is_err());
}

#[test]
fn values_outside_their_limits_are_neither_sent_nor_taken() {
    let time = |nanoseconds| {
        Some(Timestamp {
            seconds: 0,
            nanoseconds,
        })
    };
    let attributes = |attributes| Operation::SetAttributes {
        inode: InodeId(1),
        attributes,
    };
    let handle = |length| FileHandle {
        kind: 1,
        bytes: vec![0; length].into(),
    };
    let name = || Name::new(b"n").unwrap();
    let bad = [
        Operation::Sync {
            inode: InodeId(0),
            data_only: false,
        },
        attributes(Attributes {
            mode: Some(0o10000),
            ..Default::default()
        }),
        attributes(Attributes {
            uid: Some(u32::MAX),
            ..Default::default()
        }),
        attributes(Attributes {
            mtime: time(1_000_000_000),
            ..Default::default()
        }),
        attributes(Attributes {
            size: Some(1 << 63),
            ..Default::default()
        }),
        Operation::Bind {
            inode: InodeId(2),
            parent: InodeId(1),
            name: name(),
            handle: handle(129),
        },
        Operation::Write {
            inode: InodeId(1),
            offset: i64::MAX as u64,
            data: Bytes::from_static(b"a"),
            time: None,
            mode: None,
        },
        Operation::SetXattr {
            inode: InodeId(1),
            name: XattrName::new(b"user.a/b").unwrap(),
            value: vec![0; XATTR_BYTES_MAX + 1].into(),
            mode: XattrMode::Set,
            set_mode: None,
        },
        Operation::CopyRange {
            source: InodeId(1),
            source_offset: 0,
            target: InodeId(2),
            target_offset: 0,
            length: COPY_BYTES_MAX + 1,
            time: None,
            set_mode: None,
        },
    ];
    for one in bad {
        let message = operation(one);
        let sent = message.encode();
        assert!(
            matches!(sent, Err(WireError::Limit { .. })),
            "{message:?} was sent"
        );
        if !matches!(
            &message,
            ToSecondary::Operation {
                operation: Operation::Write { .. },
                ..
            }
        ) {
            let taken = ToSecondary::decode(flat_unchecked(&message).into());
            assert!(
                matches!(taken, Err(WireError::Limit { .. })),
                "{message:?} was taken"
            );
        }
    }
    let long = write(vec![0; WRITE_BYTES_MAX + 1].into());
    assert!(matches!(long.encode(), Err(WireError::Limit { .. })));
    assert!(matches!(
        write(Bytes::new()).encode(),
        Err(WireError::Limit { .. })
    ));
}

fn flat_unchecked<T: Serialize>(message: &T) -> Vec<u8> {
    flat::<T>(frame(KIND_MESSAGE, message, None, TO_PRIMARY_BYTES_MAX).unwrap()).split_off(4)
}

fn handle_of_full_length() -> FileHandle {
    FileHandle {
        kind: -1,
        bytes: vec![0; HANDLE_BYTES_MAX].into(),
    }
}

fn full_copy() -> CopyState {
    let mut history = History::default();
    (0..HISTORY_MAX).for_each(|index| history.push(Generation([index as u8; 16])));
    CopyState {
        generation: Some(Generation([255; 16])),
        base: Some(Generation([254; 16])),
        standing: Standing::Verify,
        copy: Some(CopyKind::Tracked),
        open: true,
        wrote_alone: true,
        tracked: true,
        checkpoint: u64::MAX,
        peer_checkpoint: u64::MAX,
        last_role: Role::Secondary,
        rebooted: true,
        remembers: true,
        durability: Durability::Memory,
        history,
        empty: true,
        foreign: true,
        changed: Change {
            inodes: Some(u64::MAX),
            bytes: Some(u64::MAX),
        },
    }
}

fn full_offers() -> Vec<Offer> {
    let offer = Offer {
        dir: "/".repeat(PATH_BYTES_MAX),
        sync: SyncMode::Write,
        durability: Durability::Disk,
        empty: true,
        free_bytes: u64::MAX,
        abilities: Abilities {
            name_bytes_max: u32::MAX,
            xattr_bytes_max: u32::MAX,
            acl: true,
            handles: true,
            time_step_ns: u32::MAX,
            tried: true,
        },
        top: Top {
            mode: 0o7777,
            uid: u32::MAX - 1,
            gid: u32::MAX - 1,
            mtime: Timestamp {
                seconds: i64::MAX,
                nanoseconds: 999_999_999,
            },
        },
        exclude: vec!["p".repeat(PATTERNS_BYTES_MAX / PATTERNS_MAX); PATTERNS_MAX],
    };
    vec![offer; DIRECTORIES_MAX]
}

fn full_identities() -> Identities {
    let names = vec![(u32::MAX, "n".repeat(IDENTITY_BYTES_MAX)); IDENTITIES_MAX];
    Identities {
        users: names.clone(),
        groups: names,
    }
}

#[test]
fn a_secondary_keeps_no_more_than_one_welcome_can_say() {
    use crate::session::secondary;
    const { assert!(secondary::ANSWERS_MAX <= ANSWERS_MAX) };
    const { assert!(secondary::QUEUED_OPERATIONS_MAX <= RECEIVED_MAX) };
}

#[test]
fn messages_with_every_list_full_fit_their_frames() {
    let last = Number(u64::MAX - 1);
    let applied = Applied {
        length: u64::MAX,
        handle: Some(handle_of_full_length()),
    };
    let answer = Answer {
        number: last,
        outcome: Outcome::Applied(applied),
        took_us: u32::MAX,
    };
    let welcome = ToPrimary::Welcome(Welcome {
        node: "n".repeat(LABEL_BYTES_MAX),
        prefix: last,
        answers: vec![answer; ANSWERS_MAX],
        received: vec![last; RECEIVED_MAX],
        directories: full_offers(),
        identities: full_identities(),
    });
    assert!(ToPrimary::decode(flat(welcome.encode().unwrap()).split_off(4).into()).is_ok());
    ToSecondary::Hello(Hello {
        module: "m".repeat(LABEL_BYTES_MAX),
        node: "n".repeat(LABEL_BYTES_MAX),
        session: SessionId([255; 16]),
        start: Start::Resume { confirmed: last },
        copy: Box::new(full_copy()),
        directories: full_offers(),
        identities: full_identities(),
    })
    .encode()
    .unwrap();
    ToSecondary::Forget(vec![InodeId(u64::MAX); FORGET_MAX])
        .encode()
        .unwrap();
    let write = ToSecondary::Operation {
        number: last,
        confirmed: Number(last.0 - 1),
        introduced: vec![(InodeId(u64::MAX), handle_of_full_length()); INTRODUCED_MAX],
        operation: Operation::Write {
            inode: InodeId(u64::MAX),
            offset: i64::MAX as u64 - WRITE_BYTES_MAX as u64,
            data: vec![0; WRITE_BYTES_MAX].into(),
            time: Some(Timestamp {
                seconds: i64::MIN,
                nanoseconds: 999_999_999,
            }),
            mode: Some(0o7777),
        },
    };
    write.encode().unwrap();
}

#[test]
fn messages_of_a_copy_with_every_list_full_fit_their_frames() {
    let entry = Entry {
        name: Name::new(&[b'n'; NAME_BYTES_MAX]).unwrap(),
        node: Some(Node {
            inode: InodeId(u64::MAX),
            known: true,
            kind: NodeKind::Symlink(vec![b't'; SYMLINK_BYTES_MAX].into()),
            handle: handle_of_full_length(),
        }),
    };
    let listed = ToSource::Listed {
        names: vec![entry.name.clone(); NAMES_MAX],
        more: true,
    };
    let place = ToTarget::Place {
        directory: InodeId(u64::MAX),
        sole: false,
        path: Default::default(),
        entries: vec![entry; NAMES_MAX],
    };
    place.encode().unwrap();
    listed.encode().unwrap();
    let block = Block {
        inode: InodeId(u64::MAX),
        offset: i64::MAX as u64 - BLOCK_BYTES,
        length: BLOCK_BYTES as u32,
        sum: Sum([255; 16]),
    };
    let compare = ToTarget::Compare {
        blocks: vec![block; BLOCKS_MAX],
    };
    compare.encode().unwrap();
    copied(vec![7; DATA_BYTES_MAX]).encode().unwrap();
    let placed = Placed::There {
        handle: handle_of_full_length(),
        new: true,
    };
    let placed = ToSource::Placed {
        outcomes: vec![placed; NAMES_MAX],
    };
    placed.encode().unwrap();
    // Lists that are too long are not sent.
    for message in [
        copied(vec![7; DATA_BYTES_MAX + 1]),
        ToTarget::Compare {
            blocks: vec![block; BLOCKS_MAX + 1],
        },
    ] {
        assert!(matches!(message.encode(), Err(WireError::Limit { .. })));
    }
}

fn copied(data: Vec<u8>) -> ToTarget {
    ToTarget::Data {
        inode: InodeId(3),
        offset: 4096,
        data: data.into(),
    }
}

#[test]
fn the_data_of_a_copy_has_one_form_and_is_not_copied_to_send_it() {
    let message = copied(b"ab".to_vec());
    let ToTarget::Data { data, .. } = &message else {
        unreachable!()
    };
    let encoded = message.encode().unwrap();
    assert_eq!(encoded.payload.as_ref().unwrap().as_ptr(), data.as_ptr());
    assert_eq!(flat(encoded), [0, 0, 0, 6, 1, 3, 0x80, 0x20, b'a', b'b']);

    let mut body = vec![KIND_MESSAGE];
    body.extend(postcard::to_stdvec(&message).unwrap());
    let error = ToTarget::decode(body.into()).unwrap_err();
    assert!(error.to_string().contains("in the form of another"), "{error}");
}

#[test]
fn too_long_a_text_is_cut_at_a_character() {
    let cut = text("é".repeat(TEXT_BYTES_MAX));
    assert_eq!(cut.len(), TEXT_BYTES_MAX);
    assert!(text(format!("a{}", "é".repeat(TEXT_BYTES_MAX))).len() < TEXT_BYTES_MAX);
}

#[test]
fn another_version_is_refused_naming_both() {
    assert_eq!(check_preamble(preamble()), Ok(()));
    let error = check_preamble(preamble_of(VERSION + 1)).unwrap_err();
    assert_eq!(
        error,
        WireError::Version {
            ours: VERSION,
            theirs: VERSION + 1
        }
    );
    let versions = [VERSION, VERSION + 1].map(|version| format!("version {version}"));
    assert!(versions.iter().all(|version| error.to_string().contains(version)));
    assert_eq!(
        check_preamble(*b"SSH-2.0-"),
        Err(WireError::NotSidekick(*b"SSH-"))
    );
    let mut reserved = preamble();
    reserved[7] = 2;
    assert_eq!(check_preamble(reserved), Err(WireError::Reserved(2)));
}
