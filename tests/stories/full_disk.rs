//! A disk that is full costs the new, never what is there.

use std::process::Command;

use ::http::StatusCode;

use crate::world::{World, deployment};

/// A file system of its own for the state, small enough to be filled.
pub struct SmallDisk<'w>(&'w World);

impl<'w> SmallDisk<'w> {
    pub fn mount(world: &'w World) -> Option<Self> {
        let state = world.path().join("state");
        std::fs::create_dir_all(&state).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&state).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(world));
        }
        eprintln!("SKIPPED: only root may mount, so no disk was filled");
        None
    }

    /// Takes every byte that is left.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.path().join("state/filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("state/filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path().join("state")).output();
    }
}

#[test]
fn a_full_disk_costs_the_new_release_and_not_the_old() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world) else { return };
    let shop = world.repo("shop");
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");

    disk.fill();
    shop.commit("two");
    // The store may have room left in its own file, or not: a hook is refused, or stored and its deployment fails.
    let pushed = prime.push(&shop, "master");
    match pushed.status {
        StatusCode::ACCEPTED => drop(prime.until_ended(&deployment(&pushed), "failed")),
        status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", pushed.body),
    }
    prime.says("http://shop.test", "one");

    disk.make_room();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "two");
    drop(prime);
}
