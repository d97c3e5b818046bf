//! The page of the server: files that are part of the program.
//!
//! The page uses the API as any client does. Nothing of it comes from elsewhere, and browsers are told to
//! load nothing else: what disks, labels and events contain is somebody else's text.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

use super::api::no_method;

/// What the page may do: load its own files, and talk to this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // The files of another version of the server would not fit together.
    (CACHE_CONTROL, "no-cache"),
];

/// The paths, types and contents of the files.
const FILES: [(&str, &str, &str); 13] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/page/api.js", SCRIPT, include_str!("api.js")),
    ("/page/detail.js", SCRIPT, include_str!("detail.js")),
    ("/page/dialogs.js", SCRIPT, include_str!("dialogs.js")),
    ("/page/dom.js", SCRIPT, include_str!("dom.js")),
    ("/page/draw.js", SCRIPT, include_str!("draw.js")),
    ("/page/heat.js", SCRIPT, include_str!("heat.js")),
    ("/page/main.js", SCRIPT, include_str!("main.js")),
    ("/page/panes.js", SCRIPT, include_str!("panes.js")),
    ("/page/table.js", SCRIPT, include_str!("table.js")),
    ("/page/text.js", SCRIPT, include_str!("text.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the routes of the files.
pub(super) fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let file = async move || {
            let mut response = content.into_response();
            let all = HEADERS.into_iter().chain([(CONTENT_TYPE, kind)]);
            for (name, value) in all {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        };
        router.route(path, get(file).fallback(no_method))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_small() {
        let sum: usize = FILES.iter().map(|(.., content)| content.len()).sum();
        assert!(sum < 72 << 10, "{sum} bytes");
    }

    #[test]
    fn names_of_others_are_never_parsed_as_html() {
        for (path, _, content) in FILES {
            for words in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
                assert!(!content.contains(words), "{path}: {words}");
            }
            assert!(!content.contains("style=") && !content.contains("onclick=\""), "{path}");
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        for (path, _, content) in FILES {
            let own = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!own.contains("http:") && !own.contains("https:"), "{path}");
            assert!(path == "/" || path.starts_with("/page/"), "{path}");
        }
    }
}
