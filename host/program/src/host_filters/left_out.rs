//! The filters of nbdkit that are not here, and what to do instead.

use memnbd::component::BuiltIn;

use super::NAMES;

/// The filters, each with what does the same.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "blocksize",
        "clients keep to the block sizes that they are told; blocksize-policy tells others",
    ),
    ("bzip2", "decompress the image with bzip2(1) and serve the result"),
    ("cache", "leave it out: disks in memory need none, and the kernel caches files"),
    (
        "cacheextents",
        "leave it out: extents are cheap here, and nbdkit has no such filter since 1.46",
    ),
    ("checkwrite", "compare disks with nbdcopy(1) or qemu-img compare"),
    ("count", "use -v, with which the log has the totals of each export"),
    ("cow", "serve a copy of the image, or the example cow of plugin/guest"),
    ("ddrescue", "use error with error-range= for the ranges that are damaged"),
    ("evil", "use error, which fails requests"),
    ("ext2", "mount the image, or copy the file out of it with debugfs(8) or guestfish(1)"),
    ("gzip", "decompress the image with gzip(1) and serve the result"),
    ("indexed-gzip", "decompress the image with gzip(1) and serve the result"),
    ("log", "use -v, with which connections and refused requests are logged"),
    (
        "luks",
        "open the image with cryptsetup(8) and serve the block device, or let qemu decrypt it",
    ),
    ("lzip", "decompress the image with lzip(1) and serve the result"),
    ("nofilter", "leave it out: it does nothing"),
    ("openonce", "leave it out: a disk is opened once here unless --private is given"),
    ("pause", "stop the whole server with the signal STOP, and continue it with CONT"),
    ("qcow2dec", "convert the image with qemu-img(1) and serve the result"),
    ("readahead", "leave it out: the kernel reads files ahead"),
    ("retry", "start another server for a disk that has failed; components are not opened anew"),
    ("retry-request", "let the client retry; disks in memory and files do not fail in passing"),
    ("scan", "leave it out: the kernel reads files ahead"),
    ("spinning", "use delay, for the time of a seek, and rotational"),
    ("stats", "use -v, with which the log has the totals of each export"),
    ("tar", "use offset with the place and the size of the file in the archive, from tar -tR"),
    ("xor", "transform the image first and serve the result"),
    ("xz", "decompress the image with xz(1) and serve the result"),
];

/// Returns the message that refuses a filter which is left out, or `None` if there may be one of this
/// name.
pub(in super::super) fn advice(name: &str) -> Option<String> {
    if NAMES.contains(&name) || BuiltIn::find(name).is_some() {
        return None;
    }
    let (_, instead) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name)?;
    Some(format!("the filter {name} of nbdkit is not supported; {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_out_is_refused() {
        for (name, instead) in LEFT_OUT {
            let is_there = BuiltIn::find(name).is_some();
            assert_eq!(advice(name).is_none(), is_there, "{name}");
            assert!(is_there || advice(name).is_some_and(|advice| advice.ends_with(instead)));
        }
        assert!(LEFT_OUT.is_sorted());
        assert_eq!(advice("error"), None);
        assert_eq!(advice("no-such"), None);
    }
}
