//! Extents of a file, by SEEK_DATA and SEEK_HOLE.

use rustix::fs::{SeekFrom, seek};
use rustix::io::{self, Errno};

use super::error::Failure;
use super::open_file::OpenFile;
use crate::block::{Extents, Span, Status};

/// The maximum number of runs of data in one answer, which bounds the time for a fragmented file.
/// An answer may end early.
const MAX_RUNS: usize = 2048;

impl OpenFile {
    /// Returns the extents of a span. Without support of the file system, all of it is data.
    pub(super) fn extents(&self, span: Span, limit: usize) -> Result<Extents, Failure> {
        let mut extents = Extents::new(span.length, limit);
        let mut at = span.offset;
        for _ in 0..MAX_RUNS {
            let Some(run) = self.seek.attempt(|| self.next_run(at, span.end())) else {
                extents.push(u64::MAX, Status::DATA);
                break;
            };
            let Run { data, end } = run?;
            let more =
                extents.push(data - at, Status::HOLE) && extents.push(end - data, Status::DATA);
            if !more {
                break;
            }
            at = end;
        }
        if extents.covered() == 0 {
            // Others changed the file between the calls, each time.
            extents.push(u64::MAX, Status::DATA);
        }
        Ok(extents)
    }

    /// Finds the first run of data from `at` on. Both of its ends lie between `at` and `limit`. It
    /// is empty if there is only a hole.
    fn next_run(&self, at: u64, limit: u64) -> io::Result<Run> {
        let data = match seek(&self.fd, SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, limit),
            // There is none. Bytes that a truncation has removed are no hole: see the module.
            Err(Errno::NXIO) => {
                let size = seek(&self.fd, SeekFrom::End(0))?;
                return Ok(Run { data: size.clamp(at, limit), end: limit });
            }
            // The file system does not support it.
            Err(Errno::INVAL) => return Err(Errno::OPNOTSUPP),
            Err(error) => return Err(error),
        };
        if data == limit {
            return Ok(Run { data, end: limit });
        }
        match seek(&self.fd, SeekFrom::Hole(data)) {
            Ok(end) => Ok(Run { data, end: end.clamp(data, limit) }),
            // The file was truncated in between.
            Err(Errno::NXIO) => Ok(Run { data, end: limit }),
            Err(error) => Err(error),
        }
    }
}

/// A run of data.
struct Run {
    /// The offset of the first byte. The bytes between the start of the search and this are a hole.
    data: u64,
    /// The offset after the last byte.
    end: u64,
}
