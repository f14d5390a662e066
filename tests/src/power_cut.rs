//! What a disk holds when the power goes: an ext4 image on a loop device, copied while its writer is frozen.

use crate::tools;
use anyhow::Result;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted image; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Makes and mounts a new image in `folder`.
    ///
    /// # Errors
    /// Not root, no loop devices, no mkfs.ext4.
    pub fn create(folder: &Path, mebibytes: u32) -> Result<Self> {
        let disk = Self { image: folder.join("disk.img"), mount: folder.join("disk") };
        fs::create_dir_all(&disk.mount)?;
        tools::run(Command::new("truncate").arg("-s").arg(format!("{mebibytes}M")).arg(&disk.image))?;
        tools::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        tools::run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Keeps what the device holds now; what the file system has not written to it is not in it. The writer must stand
    /// still.
    ///
    /// # Errors
    /// Of the tools.
    pub fn keep(&self) -> Result<()> {
        tools::run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(self.kept()))?;
        Ok(())
    }

    /// Puts what was kept in the disk's place, as a machine finds it when the power is back. Nobody may use the disk.
    ///
    /// # Errors
    /// Of the tools.
    pub fn power_up(&self) -> Result<()> {
        tools::run(Command::new("umount").arg(&self.mount))?;
        fs::rename(self.kept(), &self.image)?;
        self.attach()
    }

    fn kept(&self) -> PathBuf {
        self.image.with_extension("kept")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A mount that stays busy is left to the next start of the machine.
        let _ = tools::ask(Command::new("umount").arg(&self.mount));
    }
}
