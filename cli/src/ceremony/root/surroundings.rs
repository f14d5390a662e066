//! What is around the program: network interfaces.

use std::{fs, path::Path};

/// The network interfaces that are up, but for loopback.
pub fn interfaces_up() -> Vec<String> {
    up_in(Path::new("/sys/class/net"))
}

fn up_in(folder: &Path) -> Vec<String> {
    let mut up: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let flags = fs::read_to_string(entry.path().join("flags")).unwrap_or_default();
            let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
            // IFF_UP and IFF_LOOPBACK of linux/if.h.
            flags & 0x1 != 0 && flags & 0x8 == 0
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    up.sort();
    up
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_up_is_found_and_loopback_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for (name, flags) in [("lo", "0x9\n"), ("eth1", "0x1003\n"), ("eth0", "0x1003\n"), ("wlan0", "0x1002\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("flags"), flags).unwrap();
        }
        assert_eq!(up_in(dir.path()), ["eth0", "eth1"]);
        assert!(up_in(&dir.path().join("none")).is_empty());
    }
}
