//! The page for browsers, as far as no browser is needed; tests/page has the rest.

use super::{controlled, http};

#[test]
fn page_is_complete_and_may_load_nothing_else() {
    let server = controlled(&["1M"]);
    let index = http(&server, "GET", "/", None);
    assert_eq!(index.status, 200);
    let mut names = vec!["/".to_owned()];
    let text = String::from_utf8(index.body).unwrap();
    for attribute in ["src=\"", "href=\""] {
        let found = text.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap());
        names.extend(found.filter(|name| !name.starts_with('#')).map(|name| format!("/{name}")));
    }
    let mut at = 0;
    while at < names.len() {
        let path = names[at].clone();
        let file = http(&server, "GET", &path, None);
        assert_eq!(file.status, 200, "{path}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-cache",
        ] {
            assert!(file.head.contains(header), "{path}: {}", file.head);
        }
        let kind = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert!(file.head.contains(&format!("content-type: {kind}\r\n")), "{path}: {}", file.head);
        // What modules import.
        let text = String::from_utf8(file.body).unwrap();
        for import in text.split(" from \"./").skip(1) {
            let name = format!("/page/{}", import.split('"').next().unwrap());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        at += 1;
    }
    assert_eq!(names.iter().filter(|name| name.ends_with(".js")).count(), 10, "{names:?}");
    assert_eq!(http(&server, "POST", "/", Some("{}")).status, 405);
    assert_eq!(http(&server, "GET", "/page/other.js", None).status, 404);
}
