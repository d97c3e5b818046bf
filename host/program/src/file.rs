//! The backend `file`, which is part of the host: the bytes of a file never enter a component.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memnbd::component::Description;
use memnbd::device::file::{self, Access, FileDevice, FileOptions, PageCache};
use memnbd::device::{Buffers, Device};
use memnbd::exports::Problem;
use memnbd::parameters::{Argument, Parameter, ParameterType, Value};

use super::sandbox;
use super::wish::Wish;

/// The name of the backend.
pub(super) const NAME: &str = "file";

/// Returns the description of the backend, as components describe themselves.
pub(super) fn description() -> Description {
    let parameter = |name: &str, summary: &str, kind, default: Option<&str>| Parameter {
        name: name.into(),
        summary: summary.into(),
        kind,
        required: false,
        repeatable: false,
        default: default.map(Into::into),
    };
    let choice =
        |words: &[&str]| ParameterType::Choice(words.iter().map(|&word| word.to_owned()).collect());
    let descriptors = ParameterType::Number(0..=i64::from(i32::MAX));
    let directories = descriptors.clone();
    Description {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "a regular file or a block device".into(),
        parameters: vec![
            parameter("file", "the path of the file", ParameterType::Text, None),
            parameter(
                "dir",
                "a directory: each of its files is an export of the file's name",
                ParameterType::Text,
                None,
            ),
            parameter("fd", "an open file descriptor instead of a path", descriptors, None),
            parameter("dirfd", "an open directory instead of a path", directories, None),
            parameter(
                "fadvise",
                "the order in which clients read: how much the kernel reads ahead",
                choice(&["normal", "random", "sequential"]),
                Some("normal"),
            ),
            parameter(
                "cache",
                "what stays in the page cache: what the kernel decides, or nothing",
                choice(&["default", "none"]),
                Some("default"),
            ),
        ],
        bare_parameter: Some("file".into()),
        other_parameters: false,
    }
}

/// A file to serve.
#[derive(Clone, Debug)]
pub(super) struct FileConfig {
    export_name: String,
    path: PathBuf,
    /// The file itself, if it is open. `path` is only for messages then.
    descriptor: Option<Arc<OwnedFd>>,
    /// The path is that of a directory, in which the export's name is that of the file.
    in_directory: bool,
    read_only: bool,
    access: Access,
    page_cache: PageCache,
    buffers: Buffers,
}

impl FileConfig {
    /// Returns the file that arguments of the backend name. It is opened later.
    ///
    /// # Errors
    ///
    /// Returns a message if the arguments make no sense together.
    pub(super) fn new(
        arguments: &[Argument],
        wish: &Wish,
        read_only: bool,
    ) -> Result<Self, String> {
        let mut path = None;
        let mut in_directory = false;
        let (mut access, mut page_cache) = (Access::default(), PageCache::default());
        for Argument { name, value } in arguments {
            match (name.as_str(), value) {
                ("file" | "dir" | "fd" | "dirfd", _) if path.is_some() => {
                    return Err(
                        "file: two of file=, dir=, fd= and dirfd= are given; give one of them"
                            .into(),
                    );
                }
                ("dir", Value::Text(text)) => {
                    in_directory = true;
                    path = Some(PathBuf::from(text));
                }
                ("dirfd", Value::Number(fd)) => {
                    in_directory = true;
                    path = Some(format!("/proc/self/fd/{fd}").into());
                }
                ("file", Value::Text(text)) => path = Some(PathBuf::from(text)),
                // It is opened anew, so that the device shares no offset with others.
                ("fd", Value::Number(fd)) => path = Some(format!("/proc/self/fd/{fd}").into()),
                ("fadvise", Value::Text(word)) => {
                    access = match word.as_str() {
                        "random" => Access::Random,
                        "sequential" => Access::Sequential,
                        _ => Access::Normal,
                    };
                }
                ("cache", Value::Text(word)) if word == "none" => page_cache = PageCache::None,
                _ => {}
            }
        }
        let path = path.ok_or(
            "file needs a file: give its path, as in file=disk.img, or a directory, as in dir=images",
        )?;
        if path.as_os_str().is_empty() {
            return Err("file: the path is empty; give that of a file or directory".into());
        }
        Ok(Self { in_directory, access, page_cache, ..Self::of_path(&path, wish, read_only) })
    }

    /// Returns the file at a path, with the defaults.
    pub(super) fn of_path(path: &Path, wish: &Wish, read_only: bool) -> Self {
        Self {
            export_name: wish.export_name.clone(),
            path: wish.directory.join(path),
            descriptor: None,
            in_directory: false,
            read_only,
            access: Access::default(),
            page_cache: PageCache::default(),
            buffers: wish.budgets.buffers.clone(),
        }
    }

    /// Returns an open file, for reading only. `what` is what messages call it.
    pub(super) fn of_descriptor(what: &str, descriptor: Arc<OwnedFd>, wish: &Wish) -> Self {
        let config = Self::of_path(Path::new(""), wish, true);
        Self { path: what.into(), descriptor: Some(descriptor), ..config }
    }

    /// Returns the directory whose files are exports, if it is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.in_directory.then_some(&*self.path)
    }

    /// Opens the file.
    pub(super) async fn open(&self) -> Result<Arc<dyn Device>, Problem> {
        let path = self.path.clone();
        let (what, source) = match (&self.descriptor, self.in_directory) {
            (_, true) => (
                path.join(&self.export_name),
                file::Source::Beneath { directory: path, name: self.export_name.clone() },
            ),
            (None, false) => (path.clone(), file::Source::Path(path)),
            (Some(file), false) => {
                let what = path.display().to_string();
                let copy = file.try_clone().map_err(|error| Problem::File {
                    what,
                    error: file::OpenError::System(error),
                })?;
                (path, file::Source::Descriptor(copy))
            }
        };
        let what = || what.display().to_string();
        let options = FileOptions {
            source,
            export_name: self.export_name.clone(),
            read_only: self.read_only,
            access: self.access,
            page_cache: self.page_cache,
            buffers: self.buffers.clone(),
        };
        let opened = tokio::task::spawn_blocking(move || FileDevice::open(options)).await;
        let device = opened.map_err(|_| Problem::Panicked)?;
        let device = device.map_err(|error| Problem::File {
            what: what(),
            error: match error {
                file::OpenError::System(error) => {
                    file::OpenError::System(sandbox::explained(Path::new(&what()), error))
                }
                error => error,
            },
        })?;
        if let Some(error) = device.write_refusal() {
            tracing::warn!(
                "export {:?}: {} cannot be opened for writing ({error}), so the export is read-only",
                self.export_name,
                what()
            );
        }
        Ok(Arc::new(device))
    }
}
