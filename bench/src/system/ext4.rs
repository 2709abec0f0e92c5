//! A plain directory on the disk that holds everybody's copies.

use super::System;
use crate::ground::{Ground, WORKER};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A directory.
#[derive(Debug)]
pub struct Ext4 {
    directory: PathBuf,
}

impl Ext4 {
    /// Makes the directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn up(ground: &Ground) -> Result<Self> {
        Ok(Ext4 {
            directory: ground.directory(WORKER, "ext4")?,
        })
    }
}

impl System for Ext4 {
    fn directory(&self) -> &Path {
        &self.directory
    }
}
