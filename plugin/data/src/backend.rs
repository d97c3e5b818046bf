//! The component: parameters, and the calls of the host.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Chunk, Description, Disk, Error, Extent, MAX_SIZE, OpenRequest,
    Parameter, Status, Value, ZeroOptions,
};

use crate::files::GivenFiles;
use crate::image::Image;
use crate::store::{NoSpace, Store};
use crate::{encoded, language};

/// The longest read or write in bytes. Both are built in memory that never shrinks.
const MAXIMUM_TRANSFER: u32 = 1 << 20;

/// The memory that is left for payloads, results and the image, in bytes, when written pages have
/// taken all that they may.
const RESERVED: u64 = 16 << 20;

/// The most memory that an instance can have.
const LARGEST_MEMORY: u64 = 4 << 30;

/// The parameters that give the content, of which there is one.
const CONTENTS: [&str; 3] = ["data", "raw", "base64"];

/// The parameter that gives the files of an expression. No variable has this name, because of the `-`.
const INPUT_FILE: &str = "input-file";

struct Data(Store);

impl Backend for Data {
    fn describe() -> Description {
        let summary = "a disk with the content of an expression, of base64, or of a text";
        Description::new("data", env!("CARGO_PKG_VERSION"), summary)
            .parameter(Parameter::text(
                "data",
                "an expression like '0x55 0xAA @0x1fe \"end\" (1 2)*100', in the language of \
                 nbdkit-data-plugin(1); $NAME is the text of the parameter NAME",
            ))
            .parameter(Parameter::text("raw", "the content itself"))
            .parameter(Parameter::text("base64", "the content in base64"))
            .parameter(
                Parameter::size("size", "the size of the disk, which cuts or extends the content")
                    .default("the size of the content"),
            )
            .parameter(
                Parameter::file(
                    INPUT_FILE,
                    "a file that the expression reads, one for each <FILE in their order; \
                     memnbd-host gives those that the expression names",
                )
                .repeatable(),
            )
            .bare_parameter("data")
            // They are the variables of the expression: $NAME.
            .other_parameters()
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let limit = request.memory_limit.min(LARGEST_MEMORY).saturating_sub(RESERVED);
        // There is a second copy while they are read.
        let files = request.values(INPUT_FILE).filter_map(|value| match value {
            Value::Device(device) => Some(*device),
            _ => None,
        });
        let mut files = GivenFiles::new(files.collect(), limit / 2);
        let mut image = content(request, &mut files)?;
        if let Some(size) = request.size("size") {
            // The host has seen to it that the size is within its range.
            image.resize(size.min(MAX_SIZE));
        }
        Ok(Self(Store::new(image, limit - files.read_bytes())))
    }

    fn disk(&self) -> Disk {
        let capabilities = Capabilities::WRITABLE
            | Capabilities::TRIM
            | Capabilities::ZERO
            | Capabilities::FAST_ZERO
            | Capabilities::EXTENTS
            | Capabilities::MULTI_CONN;
        Disk { capabilities, maximum_transfer: MAXIMUM_TRANSFER, ..Disk::new(self.0.size()) }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.0.read(offset, buffer);
        Ok(())
    }

    fn read_chunks(&mut self, offset: u64, length: u32) -> Result<Vec<Chunk>, Error> {
        let extents = self.0.extents(offset, length.into()).map_err(|_| Error::ENOMEM)?;
        if let [first] = extents.as_slice()
            && first.hole
            && first.length == u64::from(length)
        {
            return Ok(vec![Chunk::Hole(length)]);
        }
        let mut buffer = vec![0; length as usize];
        self.0.read(offset, &mut buffer);
        Ok(vec![Chunk::Data(buffer)])
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Error> {
        self.0.write(offset, data).map_err(no_space)
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        if options.keep_allocated {
            // The host writes zeroes then.
            return Err(Error::ENOTSUP);
        }
        self.0.zero(offset, length).map_err(no_space)
    }

    fn trim(&mut self, offset: u64, length: u64, _fua: bool) -> Result<(), Error> {
        self.0.zero(offset, length).map_err(no_space)
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let extents = self.0.extents(offset, length).map_err(|_| Error::ENOMEM)?;
        let extent = |extent: crate::store::Extent| Extent {
            length: extent.length,
            status: if extent.hole { Status::HOLE } else { Status::DATA },
        };
        Ok(extents.into_iter().map(extent).collect())
    }
}

/// Returns the content that the arguments give.
fn content(request: &OpenRequest, files: &mut GivenFiles) -> Result<Image, Error> {
    let given: Vec<&str> =
        CONTENTS.into_iter().filter(|name| request.text(name).is_some()).collect();
    let refuse = |text: String| Error::EINVAL.because(text);
    let [name] = given.as_slice() else {
        return Err(refuse(match given.len() {
            0 => "the content is missing: give one of data, raw and base64".to_string(),
            _ => format!("{} are given; give one of them", given.join(" and ")),
        }));
    };
    let text = request.text(name).unwrap_or_default();
    match *name {
        "raw" => Ok(encoded::raw(text.as_bytes())),
        "base64" => encoded::base64(text).map_err(|error| refuse(format!("base64: {error}"))),
        _ => {
            let variable = |name: &str| request.text(name).map(ToString::to_string);
            language::evaluate(text, &variable, files).map_err(|error| refuse(error.to_string()))
        }
    }
}

fn no_space(NoSpace: NoSpace) -> Error {
    Error::ENOSPC
}

memnbd_guest::backend!(Data);

#[cfg(test)]
mod tests {
    use memnbd_guest::testing;

    use super::*;

    fn request(arguments: &[(&str, &str)]) -> OpenRequest {
        let request = OpenRequest { memory_limit: 64 << 20, ..OpenRequest::default() };
        arguments
            .iter()
            .fold(request, |request, (name, text)| request.with(name, Value::Text((*text).into())))
    }

    fn bytes(request: &OpenRequest) -> Vec<u8> {
        let mut disk = Data::open(request).unwrap();
        let mut bytes = vec![0; disk.disk().size as usize];
        disk.read(0, &mut bytes).unwrap();
        bytes
    }

    fn refusal(arguments: &[(&str, &str)]) -> String {
        let error = Data::open(&request(arguments)).err().expect("it is refused");
        error.message.expect("the reason is told").into_owned()
    }

    #[test]
    fn content_is_an_expression_base64_or_a_text() {
        assert_eq!(bytes(&request(&[("data", "1 (2 3)*2")])), [1, 2, 3, 2, 3]);
        assert_eq!(bytes(&request(&[("base64", "aGVsbG8=")])), b"hello");
        assert_eq!(bytes(&request(&[("raw", "0x55 # no")])), b"0x55 # no");
        let variables = [("data", "$a $b"), ("a", "1 2"), ("b", "\"x\"")];
        assert_eq!(bytes(&request(&variables)), [1, 2, b'x']);
        let cut = request(&[("data", "1 2 3")]).with("size", Value::Size(2));
        assert_eq!(bytes(&cut), [1, 2]);
        let extended = request(&[("data", "1 2 3")]).with("size", Value::Size(5));
        assert_eq!(bytes(&extended), [1, 2, 3, 0, 0]);
    }

    /// A file with this content.
    fn file(content: &[u8]) -> Value {
        let file = testing::device(content.len() as u64, Capabilities::WRITABLE);
        for (part, offset) in content.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
            file.write(offset, part, false).unwrap();
        }
        Value::Device(file)
    }

    #[test]
    fn files_are_read_in_the_order_of_the_expression() {
        let large: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
        let expression = "9 <a[1:3] <(b) $v <large[2097150:2097154] <empty (<a -> \\n \\n*2)";
        let request = request(&[("data", expression), ("v", "<c*2")])
            .with(INPUT_FILE, file(b"abcd"))
            .with(INPUT_FILE, file(b"B"))
            .with(INPUT_FILE, file(b"C"))
            .with(INPUT_FILE, file(&large))
            .with(INPUT_FILE, file(b""))
            .with(INPUT_FILE, file(b"xy"));
        let expected = [b"\x09bcBCC", &large[2_097_150..2_097_154], b"xyxy"].concat();
        assert_eq!(bytes(&request), expected);
        assert_eq!(bytes(&request.with("size", Value::Size(1))), [9]);
    }

    #[test]
    fn files_beyond_the_memory_limit_are_refused() {
        let mut request = request(&[("data", "<a")]).with(INPUT_FILE, file(&[1; 1 << 20]));
        request.memory_limit = RESERVED + (2 << 20);
        let mut disk = Data::open(&request).unwrap();
        disk.write(0, &[1; 1 << 20], false).unwrap();
        request.memory_limit -= 2;
        let error = Data::open(&request).err().unwrap().message.unwrap();
        assert!(error.ends_with("the memory limit of the disk leaves too little room for it"));
        let huge = Value::Device(testing::device(1 << 40, Capabilities::WRITABLE));
        let request = self::request(&[("data", "<a")]).with(INPUT_FILE, huge);
        let error = Data::open(&request).err().unwrap().message.unwrap();
        assert!(error.contains("slice them: <FILE[:M]"), "{error}");
    }

    #[test]
    fn mistakes_are_told() {
        assert!(refusal(&[]).contains("give one of data, raw and base64"));
        let both = refusal(&[("data", "1"), ("raw", "1")]);
        assert_eq!(both, "data and raw are given; give one of them");
        assert!(refusal(&[("data", "1 300")]).starts_with("line 1, column 3"));
        assert!(refusal(&[("data", "<file")]).contains("add input-file=PATH"));
        assert!(refusal(&[("data", "<(date)")]).contains("input-file=PATH"));
        assert!(refusal(&[("base64", "a")]).starts_with("base64: "));
    }

    #[test]
    fn disk_is_written_trimmed_and_full() {
        let large = request(&[("data", "@0x7ffffffffffffffe 1")]);
        let mut disk = Data::open(&large).unwrap();
        assert_eq!(disk.disk().size, MAX_SIZE);
        assert!(matches!(disk.read_chunks(0, 512).unwrap()[..], [Chunk::Hole(512)]));
        disk.write(1 << 40, &[7; 512], false).unwrap();
        assert!(matches!(&disk.read_chunks(1 << 40, 512).unwrap()[..],
            [Chunk::Data(data)] if *data == [7; 512]));
        let extents = disk.extents(0, MAX_SIZE).unwrap();
        assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), MAX_SIZE);
        assert_eq!(extents.len(), 4);
        disk.trim(0, MAX_SIZE - 1, false).unwrap();
        let mut last = [0];
        disk.read(MAX_SIZE - 1, &mut last).unwrap();
        assert_eq!(last, [1]);
        let allocated = ZeroOptions { keep_allocated: true, ..ZeroOptions::default() };
        assert_eq!(disk.zero(0, 4096, allocated), Err(Error::ENOTSUP));
        let mut written = 0;
        while disk.write(written, &[1; 1 << 15], false).is_ok() {
            written += 1 << 15;
        }
        assert_eq!(written, (64 << 20) - RESERVED, "then the memory is full");
        disk.zero(0, 1 << 20, ZeroOptions::default()).unwrap();
        disk.write(0, &[1; 1 << 15], false).unwrap();
    }
}
