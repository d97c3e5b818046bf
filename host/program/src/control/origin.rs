//! Refuses what web pages of others make a browser send.
//!
//! A page of any site can make the browser of somebody who may use the API send requests to it, from the
//! same machine. What browsers say of such requests (Fetch Metadata, RFC 6454) is checked for each, and by
//! which name they reached the server: a site whose name leads to this machine for a while (DNS rebinding)
//! would be of the same origin to a browser. Programs send nothing of this but `Host`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The names by which the API may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Addresses, `localhost` and names without a dot, which no site of others has.
    Local,
    /// Any, because requests prove by tokens who sends them.
    Any,
}

/// Refuses a request that another site caused.
pub(super) async fn check(names: Names, request: Request, next: Next) -> Response {
    match admit(names, request.method(), request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn admit(names: Names, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if hosts.next().is_some() {
        return Err(Problem::bad_request("there is more than one header Host"));
    }
    if names == Names::Local && !is_local(host) {
        return refused(
            "the header Host is not an address, localhost or a name without a dot, as it is where a \
             page of another site reaches this server; use such a name",
        );
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if !authority.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host)) {
            return refused("the request was caused by a page of another origin");
        }
    }
    // Following a link to the page is all that others may cause.
    let follows = method == Method::GET
        && path == "/"
        && headers.get(MODE).is_some_and(|mode| mode == "navigate");
    let is_foreign = |site: &str| !matches!(site, "same-origin" | "none");
    let site = headers.get(SITE).map(|site| site.to_str().unwrap_or_default());
    if !follows && site.is_some_and(is_foreign) {
        return refused("the request was caused by a page of another site");
    }
    check_body(method, headers)
}

/// Refuses a body that is not JSON, which is all that forms can send.
fn check_body(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if matches!(*method, Method::GET | Method::HEAD)
        || !(length || headers.contains_key(TRANSFER_ENCODING))
    {
        return Ok(());
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("{} is {kind:?}; it has to be \"application/json\"", header::CONTENT_TYPE),
        )),
    }
}

/// Returns true if a host, with a port or without, has a name that no site of others has.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status_of(names: Names, request: &str, headers: &[(HeaderName, &str)]) -> Option<u16> {
        let (method, path) = request.split_once(' ').unwrap();
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        let headers: HeaderMap = headers.iter().map(pair).collect();
        let admitted = admit(names, &method.parse().unwrap(), path, &headers);
        admitted.err().map(|problem| problem.into_response().status().as_u16())
    }

    fn local(request: &str, headers: &[(HeaderName, &str)]) -> Option<u16> {
        status_of(Names::Local, request, headers)
    }

    #[test]
    fn names_of_other_sites_are_refused() {
        for host in ["x", "", "memnbd", "LOCALHOST:80", "a.localhost", "127.0.0.1:9", "[::1]:9"] {
            assert_eq!(local("GET /metrics", &[(HOST, host)]), None, "{host}");
        }
        for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost."] {
            assert_eq!(local("GET /metrics", &[(HOST, host)]), Some(403), "{host}");
            assert_eq!(status_of(Names::Any, "GET /metrics", &[(HOST, host)]), None);
        }
    }

    #[test]
    fn pages_of_others_cause_nothing() {
        let host = (HOST, "127.0.0.1:9");
        let delete = "DELETE /v1/tenants/default/disks/a";
        let with = |extra: (HeaderName, &'static str)| local(delete, &[host.clone(), extra]);
        assert_eq!(with((ORIGIN, "http://127.0.0.1:9")), None);
        assert_eq!(with((ORIGIN, "http://127.0.0.1:8")), Some(403));
        assert_eq!(with((ORIGIN, "http://evil.example")), Some(403));
        assert_eq!(with((ORIGIN, "null")), Some(403), "a sandboxed frame");
        for (site, status) in [
            ("same-origin", None),
            ("none", None),
            ("same-site", Some(403)),
            ("cross-site", Some(403)),
            ("else", Some(403)),
        ] {
            assert_eq!(with((SITE, site)), status, "{site}");
        }
    }

    #[test]
    fn links_lead_to_the_page_and_nowhere_else() {
        let headers = [(HOST, "localhost"), (SITE, "cross-site"), (MODE, "navigate")];
        assert_eq!(local("GET /", &headers), None);
        assert_eq!(local("GET /metrics", &headers), Some(403));
        assert_eq!(local("POST /", &headers), Some(403));
        assert_eq!(local("GET /", &[(SITE, "cross-site"), (MODE, "no-cors")]), Some(403));
    }

    #[test]
    fn forms_are_refused() {
        let post = |kind: &str| {
            let headers = [(CONTENT_LENGTH, "3"), (CONTENT_TYPE, kind)];
            local("POST /v1/tenants/default/disks/a/reset", &headers)
        };
        assert_eq!(post("application/json"), None);
        assert_eq!(post("Application/JSON; charset=utf-8"), None);
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            assert_eq!(post(kind), Some(415), "{kind}");
        }
        assert_eq!(local("POST /v1/x", &[(TRANSFER_ENCODING, "chunked")]), Some(415));
        assert_eq!(local("DELETE /v1/x", &[(CONTENT_LENGTH, "0")]), None);
    }
}
