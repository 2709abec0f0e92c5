//! Work whose every acknowledged step is known afterwards, also when whoever did it was killed.
//!
//! Each thread has a directory of its own and takes steps that a seed decides: it appends numbered records to
//! files, and makes, renames and removes numbered names. After each step has returned it writes the number of
//! its steps to a file outside of the mirror. What the directory must hold then follows from the seed and that
//! number alone: exactly this, or this and the one step that was on its way.

use crate::error::{Attempt, Error, Result, refused};
use crate::random::Random;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a record; a divisor of the page size, so that no record lies in two pages.
const RECORD_BYTES: usize = 64;
/// A thread with this many files makes no more.
const FILES_MAX: usize = 24;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides every step.
    pub seed: u64,
    /// How many threads.
    pub threads: u64,
    /// How many steps each of them takes.
    pub steps: u64,
}

/// How far one thread got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps that were acknowledged.
    pub acknowledged: u64,
    /// Whether the step after them had its effect, too.
    pub one_more: bool,
}

/// One step. Names are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create(u64),
    Append { name: u64, record: u64 },
    Rename { from: u64, to: u64 },
    Unlink(u64),
}

/// What a thread's directory holds: the records of each file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Model {
    files: BTreeMap<u64, Vec<u64>>,
    steps: u64,
}

impl Model {
    /// The step to take now; takes it.
    fn next(&mut self, random: &mut Random) -> Step {
        let number = self.steps;
        self.steps += 1;
        let choice = random.bits() % 100;
        let names: Vec<u64> = self.files.keys().copied().collect();
        let mut any = || names[(random.bits() % names.len() as u64) as usize];
        // A step's own number names what it makes: no name comes twice.
        let step = match choice {
            _ if names.is_empty() => Step::Create(number),
            0..20 if names.len() < FILES_MAX => Step::Create(number),
            0..70 => Step::Append {
                name: any(),
                record: number,
            },
            70..80 => Step::Rename {
                from: any(),
                to: number,
            },
            80..90 => Step::Rename {
                from: any(),
                to: any(),
            },
            _ => Step::Unlink(any()),
        };
        match step {
            Step::Create(name) => {
                self.files.insert(name, Vec::new());
            }
            Step::Append { name, record } => self.files.entry(name).or_default().push(record),
            Step::Rename { from, to } => {
                if let Some(records) = self.files.remove(&from) {
                    self.files.insert(to, records);
                }
            }
            Step::Unlink(name) => {
                self.files.remove(&name);
            }
        }
        step
    }

    /// Reads a directory back.
    fn read(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(directory).on("list", directory)? {
            let entry = entry.on("list", directory)?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).on("read", &path)?);
        }
        Ok(files)
    }

    fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let content = |records: &Vec<u64>| records.iter().flat_map(|number| record(*number)).collect();
        self.files
            .iter()
            .map(|(name, records)| (file_name(*name), content(records)))
            .collect()
    }
}

fn file_name(name: u64) -> String {
    format!("n{name}")
}

fn record(number: u64) -> Vec<u8> {
    format!("{number:>width$}\n", width = RECORD_BYTES - 1).into_bytes()
}

fn random_of(plan: &Plan, thread: u64) -> Random {
    Random::new(plan.seed ^ thread.wrapping_mul(0xd129_0ee1_6a6b_3f65))
}

fn own(parent: &Path, thread: u64) -> PathBuf {
    parent.join(format!("t{thread}"))
}

/// Does the work in `directory`, with the numbers of steps in `log`; both must exist.
///
/// # Errors
/// The first step that fails, with its number.
pub fn work(directory: &Path, log: &Path, plan: &Plan) -> Result<()> {
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                scope.spawn(move || one_thread(&own(directory, thread), &own(log, thread), plan, thread))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| refused("a thread panicked")))
            .collect()
    });
    results.into_iter().collect()
}

fn one_thread(directory: &Path, log: &Path, plan: &Plan, thread: u64) -> Result<()> {
    let counter = File::create(log).on("make", log)?;
    fs::create_dir(directory).on("make the directory", directory)?;
    acknowledge(&counter, 0).on("write", log)?;
    let (mut model, mut random) = (Model::default(), random_of(plan, thread));
    for number in 1..=plan.steps {
        let step = model.next(&mut random);
        take(step, directory).attempt(|| format!("take step {number} of thread {thread}, {step:?}"))?;
        acknowledge(&counter, number).on("write", log)?;
    }
    Ok(())
}

/// The killer ends processes and no machine: what write(2) has taken is there for who reads it afterwards.
fn acknowledge(counter: &File, steps: u64) -> io::Result<()> {
    counter.write_all_at(&steps.to_le_bytes(), 0)
}

fn take(step: Step, directory: &Path) -> io::Result<()> {
    let path = |name| directory.join(file_name(name));
    match step {
        Step::Create(name) => File::create_new(path(name)).map(drop),
        Step::Append { name, record: number } => {
            let mut file = OpenOptions::new().append(true).open(path(name))?;
            file.write_all(&record(number))?;
            // Half of the steps count on what close(2) promises by itself.
            if number % 2 == 0 { file.sync_data() } else { Ok(()) }
        }
        Step::Rename { from, to } => fs::rename(path(from), path(to)),
        Step::Unlink(name) => fs::remove_file(path(name)),
    }
}

/// How many steps all threads together have acknowledged so far.
///
/// # Errors
/// When a number cannot be read for another reason than that its thread has not begun.
pub fn acknowledged(log: &Path, plan: &Plan) -> Result<u64> {
    (0..plan.threads).map(|thread| counted(&own(log, thread))).sum()
}

fn counted(log: &Path) -> Result<u64> {
    match fs::read(log) {
        Ok(bytes) => Ok(bytes.try_into().map_or(0, u64::from_le_bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).on("read", log),
    }
}

/// Compares what is in `directory` with what was acknowledged.
///
/// # Errors
/// When the two disagree, with the first difference; or a file cannot be read.
pub fn check(directory: &Path, log: &Path, plan: &Plan) -> Result<Vec<Progress>> {
    (0..plan.threads)
        .map(|thread| check_thread(&own(directory, thread), &own(log, thread), plan, thread))
        .collect()
}

fn check_thread(directory: &Path, log: &Path, plan: &Plan, thread: u64) -> Result<Progress> {
    let acknowledged = counted(log)?;
    let (mut model, mut random) = (Model::default(), random_of(plan, thread));
    for _ in 0..acknowledged {
        model.next(&mut random);
    }
    let found = Model::read(directory)?;
    let expected = model.bytes();
    let one_more = found != expected;
    if one_more {
        let step = model.next(&mut random);
        if acknowledged >= plan.steps || found != model.bytes() {
            return Err(Error::Refused(format!(
                "{} does not hold the {acknowledged} steps acknowledged (seed {}), nor these and step {}, \
                 {step:?}: {}",
                directory.display(),
                plan.seed,
                acknowledged + 1,
                first_difference(&expected, &found)
            )));
        }
    }
    Ok(Progress {
        acknowledged,
        one_more,
    })
}

fn first_difference(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) -> String {
    let names = expected.keys().chain(found.keys());
    for name in names {
        match (expected.get(name), found.get(name)) {
            (Some(_), None) => return format!("{name} is missing"),
            (None, Some(_)) => return format!("{name} should not exist"),
            (Some(one), Some(other)) if one != other => {
                return format!(
                    "{name} has {} records in place of {}",
                    other.len() as f64 / RECORD_BYTES as f64,
                    one.len() / RECORD_BYTES
                );
            }
            _ => {}
        }
    }
    "no difference".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        seed: 1,
        threads: 2,
        steps: 300,
    };

    fn done() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let (directory, log) = (base.path().join("directory"), base.path().join("log"));
        fs::create_dir(&directory).unwrap();
        fs::create_dir(&log).unwrap();
        work(&directory, &log, &PLAN).unwrap();
        (base, directory, log)
    }

    #[test]
    fn what_was_done_is_found_and_one_step_may_lack_its_acknowledgement() {
        let (_base, directory, log) = done();
        let all = Progress {
            acknowledged: 300,
            one_more: false,
        };
        assert_eq!(check(&directory, &log, &PLAN).unwrap(), [all; 2]);
        assert_eq!(acknowledged(&log, &PLAN).unwrap(), 600);
        acknowledge(&File::create(log.join("t1")).unwrap(), 299).unwrap();
        let one_less = Progress {
            acknowledged: 299,
            one_more: true,
        };
        assert_eq!(check(&directory, &log, &PLAN).unwrap(), [all, one_less]);
    }

    #[test]
    fn a_lost_record_a_lost_name_and_a_step_too_many_are_found() {
        let (_base, directory, log) = done();
        acknowledge(&File::create(log.join("t0")).unwrap(), 290).unwrap();
        assert!(check(&directory, &log, &PLAN).is_err());
        let (_base, directory, log) = done();
        let name = fs::read_dir(directory.join("t1")).unwrap().next().unwrap();
        fs::remove_file(name.unwrap().path()).unwrap();
        assert!(check(&directory, &log, &PLAN).is_err());
        let (_base, directory, log) = done();
        let longest = fs::read_dir(directory.join("t0"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .max_by_key(|entry| entry.metadata().unwrap().len())
            .unwrap();
        let file = OpenOptions::new().write(true).open(longest.path()).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - RECORD_BYTES as u64).unwrap();
        let error = check(&directory, &log, &PLAN).unwrap_err().to_string();
        assert!(error.contains("records in place of"), "{error}");
    }
}
