//! What a disk holds when the power goes: an ext4 image on a loop device, copied while its writer is frozen.

use crate::tools;
use anyhow::{Result, ensure};
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

/// Whether this machine lets us mount: says why not.
pub fn impossible() -> Option<String> {
    let Ok(folder) = tempfile::tempdir() else { return Some("no temporary folder".to_owned()) };
    Disk::create(folder.path(), 8).err().map(|error| format!("{error:#}").lines().collect::<Vec<_>>().join(" "))
}

impl Disk {
    /// Makes and mounts a new image in `folder`.
    ///
    /// # Errors
    /// Not root, no loop devices, no mkfs.ext4.
    pub fn create(folder: &Path, mebibytes: u32) -> Result<Self> {
        let image = folder.join("disk.img");
        tools::run(Command::new("truncate").arg("-s").arg(format!("{mebibytes}M")).arg(&image))?;
        tools::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        Self::mount(image, folder.join("disk"))
    }

    fn mount(image: PathBuf, mount: PathBuf) -> Result<Self> {
        fs::create_dir_all(&mount)?;
        tools::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(Self { image, mount })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// What the disk would hold if the power went now, mounted under `folder`: what the file system has not written
    /// to its device is lost. The writer must stand still.
    ///
    /// # Errors
    /// Of the tools.
    pub fn cut(&self, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.join("cut.img");
        tools::run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&image))?;
        let disk = Self::mount(image, folder.join("cut"))?;
        ensure!(disk.path() != self.path(), "mounted on itself");
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A mount that stays busy is left to the next start of the machine.
        let _ = tools::run(Command::new("umount").arg(&self.mount));
    }
}
