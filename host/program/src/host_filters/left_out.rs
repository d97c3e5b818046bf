//! The filters of nbdkit that are not here, and what to do instead.

/// The filters, each with what does the same.
const LEFT_OUT: &[(&str, &str)] = &[
    ("bzip2", "decompress the image with bzip2(1) and serve the result"),
    ("ext2", "mount the image, or copy the file out of it with debugfs(8) or guestfish(1)"),
    ("indexed-gzip", "use gzip, which makes its index by itself"),
    (
        "luks",
        "open the image with cryptsetup(8) and serve the block device, or let qemu decrypt it",
    ),
    ("lzip", "decompress the image with lzip(1) and serve the result"),
    ("openonce", "leave it out: a disk is opened once here unless --private is given"),
];

/// Returns the message that refuses a filter which is left out, or `None` if there may be one of this
/// name.
pub(in super::super) fn advice(name: &str) -> Option<String> {
    let (_, instead) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name)?;
    Some(format!("the filter {name} of nbdkit is not supported; {instead}"))
}

#[cfg(test)]
mod tests {
    use memnbd::component::BuiltIn;

    use super::super::NAMES;
    use super::*;

    #[test]
    fn only_what_is_left_out_is_refused() {
        for (name, instead) in LEFT_OUT {
            assert!(advice(name).is_some_and(|advice| advice.ends_with(instead)), "{name}");
            assert!(BuiltIn::find(name).is_none() && !NAMES.contains(name), "{name} is here");
        }
        assert!(LEFT_OUT.is_sorted());
        assert_eq!(advice("error"), None);
        assert_eq!(advice("no-such"), None);
    }
}
