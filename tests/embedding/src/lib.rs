//! What the project is about: copying disks, by qemu-img.

use std::process::Command;

/// Copies all of a disk to another, both of which are given by their URIs.
///
/// # Errors
///
/// Returns what qemu-img says if it fails.
pub fn copy(from: &str, to: &str) -> Result<(), String> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-n", "-f", "raw", "-O", "raw", from, to]);
    let output = command.output().map_err(|error| format!("qemu-img: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Returns whether two disks have the same content.
pub fn are_equal(a: &str, b: &str) -> bool {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-f", "raw", "-F", "raw", a, b]);
    command.output().is_ok_and(|output| output.status.success())
}
