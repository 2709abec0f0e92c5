//! Situations that are known to be hard, by name. Each is run from several seeds, so that what is not laid down comes in
//! many orders.

use super::application::name;
use super::disk::{TOP, Tree};
use super::machine::Process;
use super::primary::PEER_STALL;
use super::primary::Work;
use super::script::{ALL, HERE};
use super::world::{Faults, Kind, World};
use crate::operation::NodeKind;
use crate::record::split_brain::Policy;
use crate::session::primary::Phase;

const SEEDS: std::ops::Range<u64> = 0..24;

fn each(scenario: impl Fn(&mut World)) {
    for seed in SEEDS {
        let mut world = World::paired(seed);
        scenario(&mut world);
        world.heals();
    }
}

#[test]
fn a_pruned_by_one_nodes_checkpoint_then_the_other_loses_power() {
    each(|world| {
        world.file("f", 4);
        world.checkpointing("f");
        // It is on the primary's disk alone.
        world.some(&HERE, 40);
        world.lose_power(1 - world.at());
    });
    each(|world| {
        world.file("f", 4);
        world.checkpointing("f");
        // It is on the secondary's disk alone.
        world.some(&[Kind::DeliverThere, Kind::Secondary], 40);
        world.lose_power(world.at());
    });
}

#[test]
fn b_marks_of_the_connected_time_are_durable_at_the_parting() {
    each(|world| {
        world.file("f", 4);
        let at = world.at();
        world.lose_power(1 - at);
        world.until(&[Kind::Primary, Kind::Tick], "alone", |world| {
            matches!(world.phase(at), Some(Phase::Alone(_)))
        });
        // Nothing was asked for since, so no other mark was written.
        world.kill(at);
    });
}

#[test]
fn c_copied_and_answered_then_the_target_loses_power() {
    for steps in 0..60 {
        let mut world = World::paired(steps as u64);
        world.file("f", 6);
        world.alone();
        world.write("f", 1, 3);
        world.copying();
        world.some(&ALL, steps * 3);
        let at = world.at();
        world.lose_power(1 - at);
        world.write("f", 0, 1);
        world.heals();
    }
}

#[test]
fn d_the_link_breaks_between_up_to_date_recorded_and_the_primary_told() {
    for fault in 0..3 {
        each(|world| {
            world.file("f", 6);
            world.alone();
            world.write("f", 1, 3);
            world.copying();
            let at = world.at();
            // Nothing that the secondary sends arrives from here on.
            let deaf: Vec<Kind> = ALL
                .into_iter()
                .filter(|kind| *kind != Kind::DeliverHere)
                .collect();
            world.until(&ALL, "everything is brought over", |world| {
                matches!(world.phase(at), Some(Phase::Joining))
            });
            world.until(&deaf[..6], "up-to-date", |world| {
                world.secondary_side(1 - at).is_some_and(|side| side.is_in_sync())
            });
            match fault {
                0 => world.disconnect(),
                1 => world.kill(at),
                _ => world.lose_power(at),
            }
        });
    }
}

#[test]
fn e_both_say_the_same_generation_and_one_has_crashed() {
    each(|world| {
        world.file("f", 3);
        let at = world.at();
        world.kill(1 - at);
    });
    each(|world| {
        world.file("f", 3);
        let at = world.at();
        // The primary is gone for good before anybody could take over.
        world.kill(1 - at);
        world.lose_power(at);
    });
    each(|world| {
        world.file("f", 3);
        let at = world.at();
        world.lose_power(1 - at);
        world.kill(at);
    });
}

#[test]
fn f_a_returning_secondary_that_was_in_sync_before_its_peer_went_on_alone_does_not_start() {
    each(|world| {
        world.file("f", 3);
        world.alone();
        world.write("f", 0, 1);
        let at = world.at();
        world.kill(1 - at);
        world.lose_power(at);
        world.machines[1 - at].start();
        let record = world.machines[1 - at].record().unwrap();
        assert!(record.bars_primary().is_some(), "{record:?}");
    });
}

#[test]
fn g_a_rename_over_an_existing_name_while_alone_then_a_crash() {
    for power in [false, true] {
        each(|world| {
            world.file("a", 3);
            world.file("b", 5);
            world.alone();
            world.write("a", 1, 1);
            world.moves("a", "b");
            let at = world.at();
            match power {
                true => world.lose_power(at),
                false => world.kill(at),
            }
        });
    }
}

#[test]
fn h_a_hard_link_is_removed_while_its_inode_is_dirty() {
    each(|world| {
        world.file("a", 3);
        world.links_to("a", "b");
        world.checkpointed();
        world.alone();
        world.write("a", 1, 2);
        world.removes("a");
    });
}

#[test]
fn i_names_are_rotated_with_any_prefix_of_it_on_the_peers_disk() {
    for kind in [NodeKind::File, NodeKind::Directory] {
        for prefix in 0..=3 {
            each(|world| {
                world.make("a", kind.clone());
                world.make("b", kind.clone());
                if kind == NodeKind::File {
                    for path in ["a", "b"] {
                        world.write(path, 0, 2);
                    }
                }
                world.checkpointed();
                let other = 1 - world.at();
                for (at, (from, to)) in [("a", "tmp"), ("b", "a"), ("tmp", "b")].into_iter().enumerate() {
                    if at == prefix {
                        world.machines[other].disk.sync_all();
                        world.machines[other].disk.freeze();
                    }
                    world.moves(from, to);
                }
                // What came after the prefix has not reached its disk.
                world.lose_power(other);
            });
        }
    }
}

#[test]
fn j_a_rename_is_in_flight_while_its_child_gets_its_first_write() {
    for cut in [false, true] {
        each(|world| {
            world.make("d", NodeKind::Directory);
            world.file("d/f", 2);
            world.heals();
            // A new primary, to which the secondary is to be introduced again.
            let at = world.at();
            world.kill(at);
            world.heals();
            let child = world.find("d/f");
            world.ask_rename("d", "e");
            world.some(&[Kind::Primary, Kind::Secondary], 2);
            world.ask_write_to(child, 1, 2);
            world.some(&ALL[..4], 6);
            if cut {
                world.disconnect();
            }
        });
    }
}

#[test]
fn k_a_truncate_does_not_overtake_an_extent_in_flight() {
    for steps in 0..60 {
        let mut world = World::paired(steps as u64);
        world.file("f", 8);
        world.alone();
        world.write("f", 0, 8);
        world.copying();
        world.some(&ALL[..7], steps * 2);
        let truncate = world.ask_truncate("f", 1);
        world.some(&ALL[..7], 20);
        let write = world.ask_write("f", 4, 1);
        world.done(truncate);
        world.done(write);
        world.heals();
    }
}

#[test]
fn l_a_machine_is_restored_from_a_snapshot_state_and_volume_together() {
    // While the other one was in sync, went alone, or ended cleanly with it.
    for case in 0..3 {
        each(|world| {
            world.file("f", 3);
            world.checkpointed();
            let other = 1 - world.at();
            world.snapshot(other);
            for cell in 0..6 {
                world.write("f", cell, 1);
                world.checkpointed();
            }
            match case {
                0 => {}
                1 => {
                    world.alone();
                    world.write("f", 7, 1);
                }
                _ => {
                    world.end();
                    world.until(&ALL, "ended", |world| world.primary_at().is_none());
                    world.heals();
                }
            }
            let other = 1 - world.at();
            world.restore(other);
        });
    }
}

#[test]
fn m_a_dirty_file_is_unlinked_while_alone_and_a_power_loss_takes_the_unlink_back() {
    each(|world| {
        world.file("f", 4);
        world.syncs("f");
        world.alone();
        world.write("f", 1, 2);
        world.syncs("f");
        let at = world.at();
        world.machines[at].disk.freeze();
        world.removes("f");
        world.lose_power(at);
    });
}

#[test]
fn n_written_alone_copied_and_checkpointed_on_the_target_then_the_source_loses_power() {
    each(|world| {
        world.file("f", 4);
        world.alone();
        world.write("f", 1, 2);
        world.heals();
        world.write("f", 0, 1);
        world.checkpointed();
        world.lose_power(world.at());
    });
    // And before the primary has heard of its end.
    each(|world| {
        world.file("f", 4);
        world.alone();
        world.write("f", 1, 2);
        world.copying();
        let at = world.at();
        world.until(&ALL, "joining", |world| {
            matches!(world.phase(at), Some(Phase::Joining))
        });
        world.some(&ALL[..4], 10);
        world.lose_power(at);
    });
}

#[test]
fn o_a_session_goes_on_after_a_lost_connection_with_a_rename_applied_and_unanswered() {
    each(|world| {
        world.file("a", 2);
        world.file("b", 2);
        let rename = world.ask_rename("a", "b");
        world.some(&[Kind::DeliverThere, Kind::Secondary], 12);
        world.disconnect();
        let parted = world.seen.parted;
        world.done(rename);
        assert_eq!(world.seen.parted, parted, "the session goes on");
    });
}

#[test]
fn p_a_write_back_of_a_mapped_file_whose_unlink_was_sent_and_then_refused() {
    each(|world| {
        world.file("f", 2);
        world.heals();
        // Made immutable on both nodes, past the mount.
        for at in 0..2 {
            world.machines[at]
                .disk
                .keep_names_of(&super::application::name("f"));
        }
        let mapped = world.find("f");
        let unlink = world.ask_unlink("f");
        let write = world.ask_write_to(mapped, 1, 2);
        world.done(unlink);
        world.done(write);
        assert_eq!(world.find("f"), mapped, "it was refused");
        world.heals();
        for at in 0..2 {
            world.machines[at].disk.keep_no_names();
        }
    });
}

#[test]
fn q_both_boot_ids_have_changed_and_one_side_has_ended_cleanly() {
    each(|world| {
        world.file("f", 3);
        let at = world.at();
        world.end();
        // The secondary has noted the clean end, and the primary has not heard of it.
        let deaf = [Kind::DeliverThere, Kind::Secondary, Kind::Primary, Kind::Tick];
        world.until(&ALL, "everything is on disk", |world| {
            world.machines[1 - at].record().is_some_and(|record| !record.open)
                || world.primary_side(at).is_none()
        });
        world.some(&deaf, 6);
        for at in 0..2 {
            world.lose_power(at);
        }
    });
}

/// What is interrupted.
#[derive(Clone, Copy)]
enum Run {
    EndOfResync,
    Swap,
    CleanStop,
}

#[test]
fn r_a_crash_at_each_step_of_the_end_of_a_resync_of_a_swap_and_of_a_clean_stop() {
    for run in [Run::EndOfResync, Run::Swap, Run::CleanStop] {
        for steps in 0..50 {
            for fault in 0..5 {
                let mut world = World::paired(steps as u64);
                world.file("f", 4);
                match run {
                    Run::EndOfResync => {
                        world.alone();
                        world.write("f", 1, 2);
                        world.copying();
                        let at = world.at();
                        world.until(&ALL, "joining", |world| {
                            matches!(world.phase(at), Some(Phase::Joining))
                        });
                        // Something is asked for in the very moment.
                        world.ask_write("f", 0, 1);
                    }
                    Run::Swap | Run::CleanStop => world.end(),
                }
                let at = world.at();
                world.some(&ALL, steps * 2);
                match fault {
                    0 => world.kill(at),
                    1 => world.kill(1 - at),
                    2 => world.lose_power(at),
                    3 => world.lose_power(1 - at),
                    // For longer than either waits for the other.
                    _ => {
                        world.cut_for(PEER_STALL * 3);
                        world.some(&ALL, 300);
                    }
                }
                if let Run::CleanStop = run {
                    // Both machines are switched off.
                    world.kill(at);
                    world.kill(1 - at);
                }
                world.heals();
            }
        }
    }
}

#[test]
fn s_a_crash_between_the_two_copies_of_the_record() {
    let mut crashes = 0;
    for seed in 0..300 {
        let mut world = World::paired(seed);
        let faults = Faults {
            disconnect: 100,
            cut: 100,
            kill: 30,
            end: 20,
            ..Faults::default()
        };
        for _ in 0..400 {
            world.chance(1, &faults);
            let torn = (0..2).find(|at| world.is_between_records(*at));
            if let Some(at) = torn.filter(|_| world.random.percent(90)) {
                crashes += 1;
                match world.random.percent(50) {
                    true => world.kill(at),
                    false => world.lose_power(at),
                }
            }
        }
        world.heals();
    }
    assert!(crashes > 200, "{crashes} crashes");
}

#[test]
fn an_inode_that_an_interrupted_copy_has_made_anew_is_brought_over_whole_by_the_next() {
    for steps in 0..80 {
        let mut world = World::paired(steps as u64);
        world.make("d", NodeKind::Directory);
        world.file("d/f", 6);
        world.alone();
        world.moves("d/f", "g");
        world.moves("d", "e");
        let at = world.at();
        // The peer's handles are not known to a new process unless they were written down.
        world.kill(at);
        world.until(&ALL, "alone again", |world| world.primary_at().is_some());
        world.copying();
        world.some(&ALL[..7], steps);
        let at = world.at();
        world.kill(1 - at);
        world.write("g", 0, 1);
        world.heals();
    }
}

#[test]
fn what_reaches_the_target_of_a_copy_is_in_the_map_on_disk_before() {
    for steps in 0..80 {
        let mut world = World::paired(steps as u64);
        for path in ["a", "b", "c"] {
            world.file(path, 2);
        }
        world.alone();
        world.write("a", 0, 1);
        world.copying();
        world.some(&ALL[..7], 10);
        let other = world.find("c");
        world.ask_rename("b", "x");
        world.ask_write_to(other, 1, 1);
        // All but the primary's own work goes on: what was sent arrives, and no mark is written any more.
        let there: Vec<Kind> = ALL
            .into_iter()
            .filter(|kind| !matches!(kind, Kind::Primary | Kind::Brain))
            .collect();
        world.some(&there, steps);
        let at = world.at();
        world.kill(at);
        world.heals();
    }
}

#[test]
fn a_directory_whose_removal_was_refused_is_still_one_that_the_peer_never_had() {
    for steps in 0..60 {
        let mut world = World::paired(steps as u64);
        world.alone();
        world.make("d", NodeKind::Directory);
        world.file("d/f", 2);
        world.copying();
        let at = world.at();
        world.until(&ALL, "joining", |world| {
            matches!(world.phase(at), Some(Phase::Joining))
        });
        // The secondary has it all, and is lost before the primary has heard of that.
        world.kill(1 - at);
        world.until(&ALL, "alone", |world| {
            matches!(world.phase(at), Some(Phase::Alone(_)))
        });
        world.write("d/f", 1, 1);
        let rmdir = world.ask_unlink("d");
        world.done(rmdir);
        world.file("d/g", 1);
        world.copying();
        world.some(&ALL, steps * 2);
        world.kill(1 - at);
        world.heals();
    }
}

fn side_count(world: &World, at: usize) -> u64 {
    world.machines[at].record().unwrap().checkpoint
}

#[test]
fn a_checkpoint_that_ends_while_the_connection_is_gone_is_counted_on_both_nodes() {
    each(|world| {
        world.file("f", 3);
        world.checkpointing("f");
        let at = world.at();
        world.until(
            &[Kind::DeliverThere, Kind::Secondary, Kind::DeliverHere],
            "the secondary has ended it",
            |world| {
                let side = world.primary_side(at).unwrap();
                let waits = side.work.iter().any(|work| matches!(work, Work::Apply(..)));
                let counted = world.machines[1 - at].record().unwrap().checkpoint;
                waits && counted > side_count(world, at)
            },
        );
        world.some(&[Kind::DeliverHere], 10);
        world.disconnect();
        world.some(&HERE, 20);
        world.heals();
        world.end();
        world.until(&ALL, "ended", |world| {
            matches!(world.machines[at].process, Process::Stopped(_))
        });
        let counts: Vec<_> = world
            .machines
            .iter()
            .map(|machine| machine.record().unwrap().checkpoint)
            .collect();
        assert_eq!(counts[0], counts[1], "both have been through the same");
    });
}

#[test]
fn a_checkpoint_that_cannot_be_noted_is_noted_before_there_is_another() {
    each(|world| {
        world.file("f", 3);
        world.notes_fail = true;
        for cell in 0..6 {
            world.write("f", cell, 1);
            world.some(&ALL, 300);
        }
        let at = world.at();
        let (here, there) = (side_count(world, at), side_count(world, 1 - at));
        assert!(there > here, "checkpoints went on: {here} {there}");
        assert!(there <= here + 1, "{here} {there}");
        world.notes_fail = false;
        world.kill(1 - at);
    });
}

/// The primary goes on alone, and does or does not change something; then the secondary, which was in sync to the last,
/// is made primary apart from it and changes something. Gives who was primary first.
fn apart(world: &mut World, policy: Policy, first_changes: bool) -> usize {
    world.policy = policy;
    world.file("f", 4);
    let first = world.at();
    world.alone();
    if first_changes {
        world.write("f", 0, 2);
        world.removes("f");
        world.file("first", 3);
    }
    world.forks = true;
    world.kill(first);
    world.until(&ALL, "the other one takes over", |world| {
        world.primary_at() == Some(1 - first)
    });
    world.until(&ALL, "the other one is alone", |world| {
        matches!(world.phase(1 - first), Some(Phase::Alone(_)))
    });
    world.file("second", 2);
    assert_eq!(world.seen.forks, 1);
    first
}

#[test]
fn what_was_changed_apart_is_put_aside_before_it_is_overwritten() {
    each(|world| {
        let first = apart(world, Policy::KeepPrimary, true);
        // Its copy as it is once it has started again.
        world.heals();
        assert!(world.seen.archives > 0);
        let archived = world.archived[first].as_ref().expect("an archive");
        let names = |tree: &Tree| ["f", "first", "second"].map(|last| tree.child(TOP, &name(last)).is_some());
        assert_eq!(names(archived), [false, true, false]);
        assert_eq!(names(&world.machines[first].disk.now), [true, false, true]);
    });
}

#[test]
fn who_changed_nothing_apart_is_joined_without_an_archive() {
    each(|world| {
        apart(world, Policy::DiscardZeroChanges, false);
        world.heals();
        assert_eq!(world.seen.archives, 0);
    });
}

#[test]
fn the_node_that_puts_its_changes_aside_may_lose_power_at_any_moment() {
    for steps in 0..60 {
        let mut world = World::paired(steps as u64);
        let first = apart(&mut world, Policy::KeepPrimary, true);
        world.uncut();
        world.some(&ALL, steps * 4);
        world.lose_power(first);
        world.heals();
    }
}
