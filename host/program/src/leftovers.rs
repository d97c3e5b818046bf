//! Files that the process must not leave behind, however it ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memnbd::server::OwnedFile;

/// The files to remove before the process ends.
#[derive(Clone, Default)]
pub(super) struct Leftovers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<Weak<OwnedFile>>,
    /// The process is about to end, and creates no more files.
    ended: bool,
}

impl Leftovers {
    /// Creates something with a file that is removed when the process ends. A signal that ends the
    /// process at the same time comes either before `create`, which is not called then, or after the
    /// file has been added.
    ///
    /// # Errors
    ///
    /// Returns the error of `create`, or one that says that the process is about to end.
    pub(super) fn create<T>(
        &self,
        create: impl FnOnce() -> io::Result<(T, Option<Arc<OwnedFile>>)>,
    ) -> io::Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the process is about to end"));
        }
        let (created, file) = create()?;
        state.files.retain(|file| file.strong_count() > 0);
        state.files.extend(file.as_ref().map(Arc::downgrade));
        Ok(created)
    }

    /// Removes the files that are still there. No more can be created.
    pub(super) fn remove(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        let files = std::mem::take(&mut state.files);
        drop(state);
        files.iter().filter_map(Weak::upgrade).for_each(|file| file.remove());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn file_is_removed_even_if_it_is_being_created_when_the_process_ends() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        let leftovers = Leftovers::default();
        let (sender, receiver) = mpsc::channel();
        let remover = thread::spawn({
            let leftovers = leftovers.clone();
            move || {
                receiver.recv().unwrap();
                leftovers.remove();
            }
        });
        let created = leftovers.create(|| {
            fs::write(&path, "")?;
            sender.send(()).unwrap();
            // Gives the other thread the time to remove nothing, if it does not wait.
            thread::sleep(std::time::Duration::from_millis(20));
            let file = OwnedFile::new(&path)?;
            Ok((file.clone(), Some(file)))
        });
        remover.join().unwrap();
        assert!(created.is_ok());
        assert!(!path.exists());
        let later = leftovers.create(|| {
            fs::write(&path, "")?;
            Ok(((), None))
        });
        assert_eq!(later.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(!path.exists());
    }
}
