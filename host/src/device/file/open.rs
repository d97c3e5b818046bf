//! Opening a file, and its geometry.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{error, fmt, fs, io};

use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fcntl_getfl, fcntl_setfl, fstat, fstatfs,
    ioctl_blksszget, major, minor, open, openat2, seek, stat,
};
use rustix::io::Errno;

use super::options::{PageCache, Source};
use crate::block::{BlockSizes, Capabilities, Geometry, MAX_SIZE, MAX_TRANSFER};

/// The largest preferred block, in bytes: clients may send this much without asking.
const MAX_PREFERRED: u32 = 32 << 20;

/// The most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 1 << 20;

/// The longest name of an export, in bytes (spec: "Conventions").
const MAX_NAME: usize = 4096;

/// Why a file cannot be served.
#[derive(Debug)]
pub enum OpenError {
    /// A system call failed.
    System(io::Error),
    /// The file is of this kind.
    Kind(&'static str),
    /// The descriptor has this flag.
    Flag(&'static str),
    /// The file is too large.
    TooLarge,
    /// The name is empty or has a slash.
    Name,
    /// The name leads out of the directory.
    Elsewhere,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => error.fmt(f),
            Self::Kind(kind) => {
                write!(f, "it is a {kind}; only regular files and block devices can be served")
            }
            Self::Flag(flag) => write!(f, "files opened with {flag} cannot be served"),
            Self::TooLarge => write!(f, "it has more than {MAX_SIZE} bytes"),
            Self::Name => {
                f.write_str("the name of a file in a directory is not empty and has no slash")
            }
            Self::Elsewhere => f.write_str("it is a link that leads out of the directory"),
        }
    }
}

impl error::Error for OpenError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            // What it displays is the error's own text.
            Self::System(error) => error.source(),
            Self::Kind(_) | Self::Flag(_) | Self::TooLarge | Self::Name | Self::Elsewhere => None,
        }
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// Opens the place of a file in a directory, without reading or writing it.
fn beneath(directory: &Path, name: &str) -> Result<OwnedFd, OpenError> {
    if name.is_empty() || name.contains('/') {
        return Err(OpenError::Name);
    }
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let directory = open(directory, place | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&directory, name, place, Mode::empty(), resolve) {
        Ok(file) => Ok(file),
        // EXDEV is for names that lead elsewhere.
        Err(Errno::XDEV) => Err(OpenError::Elsewhere),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns a path of an open file.
fn process_path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Returns the names of the files in a directory that can be served, in any order. Names that are not
/// UTF-8, or longer than an export's, are left out.
///
/// # Errors
///
/// Returns an error if the directory cannot be read.
pub fn files_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)?.take(MAX_ENTRIES) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let may_be_served = |kind: fs::FileType| kind.is_file() || kind.is_block_device();
        let kind = match entry.file_type() {
            // Links count as what they lead to, if that is within the directory.
            Ok(kind) if kind.is_symlink() => match beneath(directory, &name).map(fstat_kind) {
                Ok(Some(kind)) => kind == FileType::RegularFile || kind == FileType::BlockDevice,
                _ => false,
            },
            Ok(kind) => may_be_served(kind),
            Err(_) => false,
        };
        if kind && name.len() <= MAX_NAME {
            names.push(name);
        }
    }
    Ok(names)
}

fn fstat_kind(file: OwnedFd) -> Option<FileType> {
    Some(FileType::from_raw_mode(fstat(&file).ok()?.st_mode))
}

/// An open file that can be served.
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    stat: Stat,
    writable: bool,
    /// The error of opening the file for writing.
    pub(super) write_refusal: Option<Errno>,
}

impl Opened {
    pub(super) fn open(source: Source, read_only: bool) -> Result<Self, OpenError> {
        let opened = match source {
            Source::Path(path) => Self::at_path(&path, read_only)?,
            Source::Beneath { directory, name } => {
                let place = beneath(&directory, &name)?;
                // The same file, whatever its name refers to by now.
                Self::at_path(&process_path(&place), read_only)?
            }
            Source::Descriptor(fd) => Self::of_descriptor(fd, read_only)?,
        };
        // The kernel opens such a device for writing, and then fails the writes.
        if opened.writable && opened.is_block_device() && is_set(opened.stat.st_rdev, "ro") {
            return Ok(Self { writable: false, write_refusal: Some(Errno::ROFS), ..opened });
        }
        Ok(opened)
    }

    fn at_path(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        // Checked before opening as well: opening a character device may have effects, and the
        // errors of opening a socket or directory do not name the kind.
        check_kind(&stat(path)?)?;
        // Without blocking, because the path may name a FIFO by now.
        let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let open = |access| open(path, flags | access, Mode::empty());
        let read_write = if read_only { None } else { Some(open(OFlags::RDWR)) };
        let (fd, writable, write_refusal) = match read_write {
            Some(Ok(fd)) => (fd, true, None),
            Some(Err(errno)) if forbids_writing(errno) => {
                (open(OFlags::RDONLY)?, false, Some(errno))
            }
            Some(Err(errno)) => return Err(errno.into()),
            None => (open(OFlags::RDONLY)?, false, None),
        };
        let stat = fstat(&fd)?;
        check_kind(&stat)?;
        fcntl_setfl(&fd, fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
        Ok(Self { fd, stat, writable, write_refusal })
    }

    fn of_descriptor(fd: OwnedFd, read_only: bool) -> Result<Self, OpenError> {
        let stat = fstat(&fd)?;
        check_kind(&stat)?;
        let flags = fcntl_getfl(&fd)?;
        for (flag, name) in [
            (OFlags::PATH, "O_PATH"),
            (OFlags::WRONLY, "O_WRONLY"),
            // Writes would ignore their offsets.
            (OFlags::APPEND, "O_APPEND"),
            // Buffers are not aligned.
            (OFlags::DIRECT, "O_DIRECT"),
        ] {
            if flags.contains(flag) {
                return Err(OpenError::Flag(name));
            }
        }
        let writable = flags.contains(OFlags::RDWR) && !read_only;
        Ok(Self { fd, stat, writable, write_refusal: None })
    }

    pub(super) fn is_block_device(&self) -> bool {
        kind(&self.stat) == FileType::BlockDevice
    }

    /// Whether it is a file of tmpfs or ramfs.
    pub(super) fn is_in_memory(&self) -> bool {
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        let kind = fstatfs(&self.fd).map(|fs| fs.f_type.cast_unsigned());
        !self.is_block_device() && kind.is_ok_and(|kind| IN_MEMORY.contains(&kind))
    }

    pub(super) fn geometry(&self, page_cache: PageCache) -> Result<Geometry, OpenError> {
        let (size, minimum, device) = if self.is_block_device() {
            let end = seek(&self.fd, SeekFrom::End(0))?;
            let minimum = ioctl_blksszget(&self.fd)?;
            (end - end % u64::from(minimum), minimum, self.stat.st_rdev)
        } else {
            let size = u64::try_from(self.stat.st_size).map_err(|_| OpenError::TooLarge)?;
            (size, 1, self.stat.st_dev)
        };
        if size > MAX_SIZE {
            return Err(OpenError::TooLarge);
        }
        let block_sizes = BlockSizes {
            minimum,
            preferred: preferred_block(self.stat.st_blksize, minimum),
            maximum: MAX_TRANSFER,
        };
        let capabilities = Capabilities {
            writable: self.writable,
            flush: true,
            fua: true,
            trim: self.writable,
            zero: self.writable,
            fast_zero: self.writable,
            cache: page_cache == PageCache::Default,
            // All use one page cache.
            multi_conn: true,
            rotational: is_rotational(device),
        };
        Ok(Geometry { size, block_sizes, capabilities, description: String::new() })
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn check_kind(stat: &Stat) -> Result<(), OpenError> {
    Err(OpenError::Kind(match kind(stat) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::Symlink => "symbolic link",
        FileType::Unknown => "file of an unknown kind",
    }))
}

/// Returns true if a file that cannot be opened for writing may be opened for reading instead.
fn forbids_writing(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS)
}

/// Returns the preferred block for a `st_blksize`, which need not be a power of two.
fn preferred_block(st_blksize: impl TryInto<u32>, minimum: u32) -> u32 {
    let wanted = st_blksize.try_into().unwrap_or(0).min(MAX_PREFERRED);
    wanted.next_power_of_two().max(512).max(minimum)
}

/// Returns true if a device, or the disk that contains it as a partition, rotates. A file system
/// without a device does not.
fn is_rotational(device: u64) -> bool {
    is_set(device, "queue/rotational") || is_set(device, "../queue/rotational")
}

/// Returns true if an attribute of a block device exists in sysfs and is 1.
fn is_set(device: u64, attribute: &str) -> bool {
    let path = format!("/sys/dev/block/{}:{}/{attribute}", major(device), minor(device));
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_errors_leave_the_file_readable() {
        assert!([Errno::ACCESS, Errno::PERM, Errno::ROFS].into_iter().all(forbids_writing));
        assert!(![Errno::NOENT, Errno::TXTBSY, Errno::MFILE].into_iter().any(forbids_writing));
    }

    #[test]
    fn preferred_blocks_are_powers_of_two() {
        for (st_blksize, minimum, preferred) in [
            (4096_i64, 1, 4096),
            (0, 1, 512),
            (-1, 4096, 4096),
            (1000, 1, 1024),
            (512, 4096, 4096),
            (i64::MAX, 1, 512),
            (1 << 31, 1, MAX_PREFERRED),
        ] {
            assert_eq!(preferred_block(st_blksize, minimum), preferred, "{st_blksize}");
        }
    }
}
