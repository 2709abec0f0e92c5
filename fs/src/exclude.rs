//! What of a replicated directory is not replicated: `exclude` of the configuration.
//!
//! An excluded name exists on the node that made it only. It is shown through the mount and works as any other;
//! nothing about it is shipped, marked in the dirty map, copied, or removed by a copy.
//!
//! **How the status of an inode is decided.** A *name* is excluded when a pattern matches its path below the replicated
//! directory, or when a directory above it is excluded (gitignore(5): the last pattern that matches decides, `!` takes
//! one back, a slash at the end means directories only, nothing below an excluded directory can be taken back). An
//! *inode* takes the status of the name that it is looked up or made by, and keeps it (`session/names.rs`) as long as it
//! is known: all of its names have one status, because a link across the border is refused, and a file with several
//! names of which one is excluded is not shown by that name unless it was linked by this mount (`fuse/tree.rs`).
//!
//! **Why it never changes by itself.** What a path matches depends on the names above as well, so renaming a directory
//! could change the status of what lies in it. Where the patterns allow that ([`Exclusions::reach`]), the directory is
//! looked through before the rename is numbered, while no name operation is under way, and the rename is refused with
//! `EXDEV` if anything would change (`session/primary/survey.rs`). A rename of the directory itself across the border is
//! refused the same way. Only a single file changes sides, in the step that renames it (`session/border.rs`).
//!
//! Both nodes use the same patterns, which are compared when they meet. In sync their paths are the same; a copy goes by
//! the source's. No I/O here.

use crate::operation::InodeId;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Most patterns of one directory, and most bytes of all of them: both nodes tell each other when they meet.
pub const PATTERNS_MAX: usize = 64;
/// See [`PATTERNS_MAX`].
pub const PATTERNS_BYTES_MAX: usize = 4096;

/// The patterns of one replicated directory.
#[derive(Debug, Clone)]
pub struct Exclusions {
    patterns: Vec<String>,
    rules: Gitignore,
    /// Of each pattern.
    shapes: Vec<Shape>,
}

/// Those of all directories of a module, in the order of the configuration.
pub type PerDirectory = Arc<[Exclusions]>;

/// Nothing is excluded in any of so many directories.
pub fn nothing(directories: usize) -> PerDirectory {
    (0..directories).map(|_| Exclusions::default()).collect()
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} {problem}")]
pub struct PatternError {
    /// As it is written in the configuration.
    pub pattern: String,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

/// On which names of a path a pattern depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// On the last so many.
    Last(usize),
    /// On all, of paths of at most so many.
    Whole(usize),
    /// On all, of any path.
    Any,
}

/// How far below a directory that is renamed something can change sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// So many levels: 0 for nothing, 1 for its own entries.
    Levels(usize),
    /// Everything below it.
    Everything,
}

/// A directory that is about to be renamed, to be looked through before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// It.
    pub directory: InodeId,
    /// Index of the replicated directory.
    pub root: usize,
    /// Its path below that.
    pub from: PathBuf,
    /// Its path afterwards.
    pub to: PathBuf,
    /// How deep something can change sides.
    pub reach: Reach,
}

impl Default for Exclusions {
    fn default() -> Self {
        Exclusions {
            patterns: Vec::new(),
            rules: Gitignore::empty(),
            shapes: Vec::new(),
        }
    }
}

impl PartialEq for Exclusions {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Eq for Exclusions {}

impl Exclusions {
    /// Reads patterns as they stand in the configuration.
    ///
    /// # Errors
    /// [`PatternError`] at the first that is no pattern, or can never match.
    pub fn parse(patterns: &[String]) -> Result<Self, PatternError> {
        let bytes: usize = patterns.iter().map(String::len).sum();
        if let Some(last) = patterns.last()
            && (patterns.len() > PATTERNS_MAX || bytes > PATTERNS_BYTES_MAX)
        {
            return Err(PatternError {
                pattern: last.clone(),
                problem: format!(
                    "is one too many: {PATTERNS_MAX} patterns of {PATTERNS_BYTES_MAX} bytes in all are the most; say \
                     more with one"
                ),
            });
        }
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        let mut shapes = Vec::with_capacity(patterns.len());
        let some_is_taken_back = patterns.iter().any(|pattern| pattern.starts_with('!'));
        for pattern in patterns {
            let fail = |problem: String| PatternError {
                pattern: pattern.clone(),
                problem,
            };
            check(pattern).map_err(|problem| fail(problem.to_owned()))?;
            builder
                .add_line(None, pattern)
                .map_err(|error| fail(format!("is no glob: {error}")))?;
            shapes.push(shape(pattern, some_is_taken_back));
        }
        let rules = builder.build().map_err(|error| PatternError {
            pattern: patterns.join(", "),
            problem: format!("cannot be used: {error}"),
        })?;
        Ok(Exclusions {
            patterns: patterns.to_vec(),
            rules,
            shapes,
        })
    }

    /// As they stand in the configuration.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a name is excluded whose directory is not. `path` is relative to the replicated directory.
    pub fn matches(&self, path: &Path, is_directory: bool) -> bool {
        !self.is_empty() && self.rules.matched(path, is_directory).is_ignore()
    }

    /// Whether a name is excluded, by itself or by a directory above it.
    pub fn covers(&self, path: &Path, is_directory: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut above = PathBuf::new();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            above.push(part);
            let is_last = parts.peek().is_none();
            if self.matches(&above, !is_last || is_directory) {
                return true;
            }
        }
        false
    }

    /// How far below a directory that is renamed the same names can have another status.
    pub fn reach(&self, from: &Path, to: &Path) -> Reach {
        let depth = from.components().count().min(to.components().count());
        let mut levels = 0;
        for shape in &self.shapes {
            let reaches = match shape {
                Shape::Any => return Reach::Everything,
                Shape::Last(names) => names.saturating_sub(1),
                Shape::Whole(names) => names.saturating_sub(depth),
            };
            levels = levels.max(reaches);
        }
        Reach::Levels(levels)
    }
}

/// A name below a path.
pub fn below(path: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    path.join(OsStr::from_bytes(name))
}

fn check(pattern: &str) -> Result<(), &'static str> {
    if pattern.starts_with('#') {
        return Err("would be a comment; write \\# for a name that begins with it");
    }
    if pattern.contains(['\0', '\n']) {
        return Err("contains a NUL or a newline");
    }
    let glob = glob(pattern);
    if glob.trim().is_empty() {
        return Err("is empty");
    }
    // `Path` leaves out empty components and `.`, so they are looked for here.
    let is_path = |part: &str| matches!(Path::new(part).components().next(), Some(Component::Normal(_)));
    if !glob.split('/').all(is_path) {
        return Err(
            "has an empty component, '.' or '..', and would match nothing: paths are relative to dir",
        );
    }
    Ok(())
}

/// The pattern without what says how it is meant.
fn glob(pattern: &str) -> &str {
    let glob = pattern.strip_prefix('!').unwrap_or(pattern);
    let glob = glob.strip_prefix('/').unwrap_or(glob);
    glob.strip_suffix('/').unwrap_or(glob)
}

fn shape(pattern: &str, some_is_taken_back: bool) -> Shape {
    let glob = glob(pattern);
    let is_anchored = pattern.trim_start_matches('!').starts_with('/');
    if !is_anchored && !glob.contains('/') {
        return Shape::Last(1);
    }
    let glob = match glob.strip_suffix("/**") {
        // What is right below matches already, and all the rest lies below that; unless that is taken back.
        Some(front) if !some_is_taken_back => format!("{front}/*"),
        Some(_) | None => glob.to_owned(),
    };
    let (rest, is_last) = match glob.strip_prefix("**/") {
        Some(rest) if !is_anchored => (rest, true),
        _ => (&*glob, false),
    };
    let names = rest.split('/').count();
    match (rest.contains("**"), is_last) {
        (true, _) => Shape::Any,
        (false, true) => Shape::Last(names),
        (false, false) => Shape::Whole(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exclusions(patterns: &[&str]) -> Exclusions {
        let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
        Exclusions::parse(&patterns).unwrap()
    }

    /// Directories end with a slash.
    fn covers(patterns: &[&str], path: &str) -> bool {
        let plain = path.trim_end_matches('/');
        exclusions(patterns).covers(Path::new(plain), plain != path)
    }

    #[test]
    fn patterns_match_as_in_a_gitignore_file() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&[], "a", false),
            (&["*.tmp"], "a.tmp", true),
            (&["*.tmp"], "deep/er/a.tmp", true),
            (&["*.tmp"], "a.tmp/below", true),
            (&["*.tmp"], "a.tm", false),
            (&["/*.tmp"], "a.tmp", true),
            (&["/*.tmp"], "deep/a.tmp", false),
            (&["cache/"], "cache/", true),
            (&["cache/"], "cache", false),
            (&["cache/"], "deep/cache/file", true),
            (&["a/b"], "a/b", true),
            (&["a/b"], "x/a/b", false),
            (&["**/pg_stat_tmp/*"], "pg_stat_tmp/", false),
            (&["**/pg_stat_tmp/*"], "pg_stat_tmp/x", true),
            (&["**/pg_stat_tmp/*"], "data/pg_stat_tmp/x", true),
            (&["**/pg_stat_tmp/*"], "data/pg_stat_tmp/d/y", true),
            (&["logs/**"], "logs/", false),
            (&["logs/**"], "logs/a/b", true),
            (&["a/**/z"], "a/z", true),
            (&["a/**/z"], "a/b/c/z", true),
            (&["*.tmp", "!keep.tmp"], "keep.tmp", false),
            (&["*.tmp", "!keep.tmp"], "other.tmp", true),
            (&["!keep.tmp", "*.tmp"], "keep.tmp", true),
            (&["cache/", "!cache/keep"], "cache/keep", true),
            (&["cache/*", "!cache/keep"], "cache/keep", false),
            (&["cache/*", "!cache/keep/"], "cache/keep/below", false),
            (&["\\#x"], "#x", true),
            (&["\\!x"], "!x", true),
            (&["[ab]?"], "b1", true),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(covers(patterns, path), *expected, "{patterns:?} and {path}");
        }
    }

    #[test]
    fn names_that_are_no_text_are_matched_as_well() {
        let path = below(Path::new("d"), b"\xff\xfe.tmp");
        assert!(exclusions(&["*.tmp"]).covers(&path, false));
        assert!(!exclusions(&["*.log"]).covers(&path, false));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        for bad in [
            "", "  ", "!", "/", "#x", "a//b", "./a", "a/../b", "..", "[a", "{a", "a\nb", "//a",
        ] {
            let error = Exclusions::parse(&["ok".to_owned(), bad.to_owned()]).expect_err(bad);
            assert_eq!(error.pattern, bad);
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn too_many_patterns_are_refused() {
        assert!(Exclusions::parse(&vec!["a".to_owned(); PATTERNS_MAX]).is_ok());
        assert!(Exclusions::parse(&vec!["a".to_owned(); PATTERNS_MAX + 1]).is_err());
        assert!(Exclusions::parse(&["a".repeat(PATTERNS_BYTES_MAX + 1)]).is_err());
    }

    #[test]
    fn a_rename_reaches_as_deep_as_patterns_look_up() {
        let (old, new, deep) = (Path::new("a"), Path::new("b"), Path::new("x/y/z"));
        let cases: &[(&[&str], &Path, &Path, Reach)] = &[
            (&[], old, new, Reach::Levels(0)),
            (
                &["*.tmp", "cache/", "!keep.tmp", "**/foo"],
                old,
                new,
                Reach::Levels(0),
            ),
            (&["**/tmp/*"], old, new, Reach::Levels(1)),
            (&["**/tmp/**"], old, new, Reach::Levels(1)),
            (&["**/a/b/*.c"], old, new, Reach::Levels(2)),
            (&["/a/tmp/*"], old, new, Reach::Levels(2)),
            (&["a/tmp/*"], deep, new, Reach::Levels(2)),
            (&["a/tmp/*"], deep, deep, Reach::Levels(0)),
            (&["/a"], old, new, Reach::Levels(0)),
            (&["a/**/z"], old, new, Reach::Everything),
            (&["**/a/**/z"], old, new, Reach::Everything),
            (&["*.tmp", "!a/b/c"], old, new, Reach::Levels(2)),
            (&["**/tmp/**", "!keep"], old, new, Reach::Everything),
        ];
        for (patterns, from, to, expected) in cases {
            assert_eq!(exclusions(patterns).reach(from, to), *expected, "{patterns:?}");
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let part = prop_oneof![Just("a"), Just("b"), Just("*"), Just("**"), Just("a*")];
        let parts = proptest::collection::vec(part, 1..5);
        (parts, any::<[bool; 3]>()).prop_map(|(parts, [taken_back, anchored, directories])| {
            let mark = |is_set: bool, mark: &'static str| if is_set { mark } else { "" };
            let (not, root, end) = (mark(taken_back, "!"), mark(anchored, "/"), mark(directories, "/"));
            format!("{not}{root}{}{end}", parts.join("/"))
        })
    }

    fn path(names: std::ops::Range<usize>) -> impl Strategy<Value = PathBuf> {
        let name = prop_oneof![Just("a"), Just("b"), Just("ab")];
        proptest::collection::vec(name, names).prop_map(|names| names.iter().collect())
    }

    proptest! {
        /// Whoever looks as deep as it says at what is not excluded misses nothing.
        #[test]
        fn nothing_changes_sides_deeper_than_a_rename_reaches(
            patterns in proptest::collection::vec(pattern(), 1..4),
            from in path(1..4),
            to in path(1..4),
            below in path(1..5),
            is_directory: bool,
        ) {
            let rules = Exclusions::parse(&patterns).unwrap();
            let Reach::Levels(levels) = rules.reach(&from, &to) else {
                return Ok(());
            };
            prop_assume!(!rules.covers(&from, true) && !rules.covers(&to, true));
            let depth = below.components().count();
            let seen: PathBuf = below.components().take(levels).collect();
            let seen_is_directory = depth > levels || is_directory;
            let sides = |path: &Path, is_directory| {
                (rules.covers(&from.join(path), is_directory), rules.covers(&to.join(path), is_directory))
            };
            for above in seen.ancestors().filter(|above| !above.as_os_str().is_empty()) {
                let (is, becomes) = sides(above, above != seen || seen_is_directory);
                // It would be found.
                prop_assume!(is == becomes);
            }
            let (is, becomes) = sides(&below, is_directory);
            prop_assert_eq!(is, becomes, "{:?} by {:?}", below, patterns);
        }
    }
}
