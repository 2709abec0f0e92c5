//! Maps and sets without an order, which in the tests of this crate have the same one in every run: a seed has to find a
//! mistake twice. What runs for real has the keys of the standard library, which nobody outside can guess.

#[cfg(not(test))]
pub use std::collections::{HashMap, HashSet};

#[cfg(test)]
pub use fixed::{HashMap, HashSet};

#[cfg(test)]
mod fixed {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    /// With keys that are always the same.
    pub type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
    /// With keys that are always the same.
    pub type HashSet<T> = std::collections::HashSet<T, BuildHasherDefault<DefaultHasher>>;
}
