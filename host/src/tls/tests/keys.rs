//! What lines mean.

use super::super::files::FileError;
use super::super::keys::{Keys, KeysError, Lookup, Problem};
use super::secret;

/// The key of an identity in a file of this text.
fn key(text: &str, identity: &str) -> Option<Vec<u8>> {
    let (_directory, path) = secret(text);
    let keys = Keys::new(&path).unwrap();
    let mut place = [0; 256];
    match keys.look_up(identity.as_bytes(), &mut place) {
        Lookup::Found { identity: found, length } => {
            assert_eq!(found, identity);
            Some(place[..length].to_vec())
        }
        Lookup::Unknown { .. } => None,
        Lookup::Failed(error) => panic!("{error}"),
    }
}

fn problem(text: &str) -> (usize, Problem) {
    let (_directory, path) = secret(text);
    match Keys::new(&path) {
        Err(KeysError::Line { number, problem }) => (number, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn key_is_what_its_digits_stand_for() {
    assert_eq!(key("a:00ffA0", "a"), Some(vec![0, 0xff, 0xa0]));
    assert_eq!(key("a:01\nb:02\n", "b"), Some(vec![2]));
    assert_eq!(key("a:01\n", "A"), None);
    assert_eq!(key("a:01\n", ""), None);
}

#[test]
fn identity_may_be_in_digits_or_have_colons() {
    assert_eq!(key("#61:01", "a"), Some(vec![1]));
    assert_eq!(key("#613a62:01", "a:b"), Some(vec![1]));
    assert_eq!(key("a:b:01", "a:b"), Some(vec![1]));
    assert_eq!(key("über uns:01", "über uns"), Some(vec![1]));
}

#[test]
fn first_of_two_keys_counts() {
    assert_eq!(key("a:01\na:02\n", "a"), Some(vec![1]));
}

#[test]
fn comments_blank_lines_and_white_space_at_the_ends_mean_nothing() {
    assert_eq!(key("# keys: many\n#\n\n  \n a:01 \r\n", "a"), Some(vec![1]));
}

#[test]
fn problems_are_told_by_line() {
    assert_eq!(problem("a:01\n\nb"), (3, Problem::NoColon));
    assert_eq!(problem(":01"), (1, Problem::NoIdentity));
    assert_eq!(problem("a:"), (1, Problem::NoKey));
    assert_eq!(problem("a:0"), (1, Problem::NotHexadecimal));
    assert_eq!(problem("a:0x"), (1, Problem::NotHexadecimal));
    assert_eq!(problem(&format!("a:{}", "00".repeat(257))), (1, Problem::LongKey));
    assert_eq!(problem(&format!("{}:00", "a".repeat(257))), (1, Problem::LongIdentity));
}

#[test]
fn file_is_judged_each_time() {
    let (_directory, path) = secret("a:01");
    let keys = Keys::new(&path).unwrap();
    let mut place = [0; 256];
    std::fs::remove_file(&path).unwrap();
    let Lookup::Failed(error) = keys.look_up(b"a", &mut place) else { panic!("it is gone") };
    assert!(matches!(&*error, KeysError::File(FileError::Io(_))), "{error}");
}
