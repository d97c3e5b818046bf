//! The errors that can be injected.

use memnbd_guest::ErrorCode;

/// The names of the errors that components inject, for parameters that choose one.
pub const ERROR_NAMES: &[&str] = &["EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN"];

/// Returns the error of a name.
pub fn error_code(name: &str) -> Option<ErrorCode> {
    Some(match name {
        "EPERM" => ErrorCode::Eperm,
        "EIO" => ErrorCode::Eio,
        "ENOMEM" => ErrorCode::Enomem,
        "EINVAL" => ErrorCode::Einval,
        "ENOSPC" => ErrorCode::Enospc,
        "ESHUTDOWN" => ErrorCode::Eshutdown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_an_error() {
        for name in ERROR_NAMES {
            let code = format!("{:?}", error_code(name).unwrap());
            assert_eq!(code.to_uppercase(), *name);
        }
        assert_eq!(error_code("eio"), None);
    }
}
