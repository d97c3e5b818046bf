//! Who uses the API, and what they may do.
//!
//! A caller is known by the token that it presents, or else by its connection: whoever can connect to the
//! Unix domain socket is the administrator. Everything that no rule here allows is refused, before anybody
//! looks at the request. A tenant that is not the caller's is as absent as one that does not exist.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::problem::Problem;
use super::tenants::{Entries, FIRST, Holder, NoSeat, Role, unknown};
use super::upgrade::Client;
use crate::events::AUDIT;

/// The longest part of a path that the log repeats, in bytes.
const MAX_PATH: usize = 512;

/// Where the paths of a tenant begin.
const TENANTS: &str = "/v1/tenants/";

/// How long a request waits for the share of its tenant in the processors.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// What callers with a token are told that nobody knows, or whose tenant is gone.
const UNKNOWN: &str = "this is not Bearer and a token that the server knows";

/// The place that a connection takes in the quota of a tenant, from its first request with a token of that
/// tenant until it is closed.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat(Arc<OnceLock<OwnedSemaphorePermit>>);

impl Seat {
    /// Takes a place if there is none yet.
    fn take(&self, entries: &Entries, tenant: &str) -> Result<(), NoSeat> {
        if self.0.get().is_none() {
            let permit = entries.take_seat(tenant)?;
            // The requests of a connection come one after the other.
            let _ = self.0.set(permit);
        }
        Ok(())
    }
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Whoever can connect to the socket of the administrator.
    Administrator(Client),
    /// Whoever has this token.
    Holder(Holder),
}

impl Caller {
    /// Returns true if it may do everything.
    pub(super) fn is_admin(&self) -> bool {
        match self {
            Self::Administrator(_) => true,
            Self::Holder(holder) => holder.role == Role::Admin,
        }
    }

    /// Returns true if there is this tenant as far as the caller can tell. Whoever may look at the tenant
    /// `default` without changing anything may look at all.
    pub(super) fn sees(&self, tenant: &str) -> bool {
        self.sees_all() || matches!(self, Self::Holder(holder) if &*holder.tenant == tenant)
    }

    /// Returns true if it may look at everything.
    fn sees_all(&self) -> bool {
        let looks = |holder: &Holder| &*holder.tenant == FIRST && holder.role == Role::ReadOnly;
        self.is_admin() || matches!(self, Self::Holder(holder) if looks(holder))
    }

    /// Returns the reason if the caller may not make a request.
    fn refused(&self, method: &Method, path: &str) -> Option<Problem> {
        let forbidden = |detail: &str| Some(Problem::new(StatusCode::FORBIDDEN, detail));
        let Self::Holder(Holder { role, .. }) = self else { return None };
        let looks = matches!(*method, Method::GET | Method::HEAD);
        match role {
            Role::Admin => return None,
            Role::Connect => {
                return forbidden(
                    "this token is for NBD clients, as a part of the name of an export: TOKEN/DISK",
                );
            }
            Role::Tenant | Role::ReadOnly => {}
        }
        let Some(rest) = path.strip_prefix(TENANTS) else {
            return match (looks, path) {
                (true, "/v1/tenants" | "/v1/openapi.json") => None,
                // It is about all tenants.
                (true, "/metrics") if self.sees_all() => None,
                _ => forbidden("this is for admins"),
            };
        };
        let mut parts = rest.split('/');
        let tenant = parts.next().unwrap_or_default();
        if !self.sees(tenant) {
            return Some(unknown(tenant));
        }
        let rest: Vec<&str> = parts.collect();
        match (role, rest.as_slice()) {
            (_, []) if !looks => forbidden("tenants are changed by admins"),
            (Role::ReadOnly, _) if !looks => forbidden("with this token one may only look"),
            // It reads and writes the disk.
            (Role::ReadOnly, ["disks", _, "nbd"]) => {
                forbidden("with this token one may look at what there is, but not use disks")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Administrator(client) => write!(f, "administrator {client}"),
            Self::Holder(Holder { tenant, token, .. }) => {
                write!(f, "token {token} of the tenant {tenant}")
            }
        }
    }
}

/// Finds out who makes a request.
///
/// # Errors
///
/// Returns a problem if nobody knows the caller.
fn caller(entries: &Entries, client: Client, headers: &HeaderMap) -> Result<Caller, Problem> {
    let unauthorized = |detail: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    let mut given = headers.get_all(AUTHORIZATION).into_iter();
    match (given.next(), given.next()) {
        (None, _) if client.is_local() => Ok(Caller::Administrator(client)),
        (None, _) => unauthorized("a token is needed, in the header Authorization: Bearer TOKEN"),
        (Some(value), None) => {
            let value = value.to_str().ok().and_then(|value| value.split_once(' '));
            let secret = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
            match secret.and_then(|(_, secret)| entries.tokens.find(secret.trim())) {
                Some(holder) => Ok(Caller::Holder(holder)),
                None => unauthorized(UNKNOWN),
            }
        }
        (Some(_), Some(_)) => unauthorized("there is more than one header Authorization"),
    }
}

/// Refuses a caller whom nobody knows.
fn refuse_stranger(client: Client, problem: Problem) -> Response {
    warn_of_stranger(client, problem.detail());
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns true if a request may call components. One to remove something does not wait for those that
/// compute for too long.
fn may_compute(method: &Method, path: &str) -> bool {
    match *method {
        Method::DELETE => false,
        Method::GET | Method::HEAD => path.ends_with("/map") || path.ends_with("/diff"),
        _ => path
            .strip_prefix(TENANTS)
            .is_some_and(|rest| rest.split('/').nth(1).is_some_and(|part| part != "tokens")),
    }
}

/// Lets a request pass if its caller may make it, and tells the log who changed what.
pub(super) async fn admit(
    State(entries): State<Arc<Entries>>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get().copied().unwrap_or(Client::Unknown);
    let caller = match caller(&entries, client, request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return refuse_stranger(client, problem),
    };
    let seat = request.extensions().get::<Seat>().cloned().unwrap_or_default();
    let seated = match &caller {
        Caller::Holder(Holder { tenant, .. }) => seat.take(&entries, tenant),
        Caller::Administrator(_) => Ok(()),
    };
    if seated == Err(NoSeat::Gone) {
        return refuse_stranger(client, Problem::new(StatusCode::UNAUTHORIZED, UNKNOWN));
    }
    if seated == Err(NoSeat::Full) {
        let detail = "there are too many connections with tokens of this tenant; close some";
        let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    if let Caller::Holder(Holder { tenant, .. }) = &caller
        && !caller.is_admin()
    {
        entries.wait_turn(tenant).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let allowed = match caller.refused(&method, &path) {
        Some(problem) => Err(problem),
        None => has_time(&entries, &caller, &method, &path).await,
    };
    let response = match allowed {
        Err(problem) => problem.into_response(),
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
    };
    if !matches!(method, Method::GET | Method::HEAD) {
        let (path, status) = (path.get(..MAX_PATH).unwrap_or(&path), response.status().as_u16());
        tracing::info!(target: AUDIT, "{caller}: {method} {path}: {status}");
    }
    response
}

/// Waits until a request may call the components of its tenant.
async fn has_time(
    entries: &Entries,
    caller: &Caller,
    method: &Method,
    path: &str,
) -> Result<(), Problem> {
    let Caller::Holder(Holder { tenant, .. }) = caller else { return Ok(()) };
    if !may_compute(method, path) {
        return Ok(());
    }
    timeout(TIME_LIMIT, entries.wait_for_time(tenant)).await.map_err(|_| {
        let detail = format!(
            "the components of the tenant {tenant:?} have used more than its share of the processors (the \
             quota cpus), and still had after {TIME_LIMIT:?}; try again later, or remove what computes"
        );
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
    })
}

/// Warns of a caller whom nobody knows, once a minute.
fn warn_of_stranger(client: Client, detail: &str) {
    static WARNED: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    match WARNED.swap(now, Ordering::Relaxed) == now {
        true => tracing::debug!("control API, client {client}: {detail}"),
        false => tracing::warn!("control API, client {client}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::changes::Origin;
    use super::super::tenants::Token;
    use super::*;
    use crate::secret::Digest;

    fn holder(tenant: &str, role: Role) -> Caller {
        Caller::Holder(Holder { tenant: tenant.into(), token: "t".into(), role })
    }

    /// The status with which a request is refused, 0 if it is not.
    fn refused(caller: &Caller, method: &str, path: &str) -> u16 {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let problem = caller.refused(&method, path);
        problem.map_or(0, |problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn only_what_a_rule_allows_is_let_in() {
        let acme = "/v1/tenants/acme";
        let rows: [(&str, &str, [u16; 5]); 17] = [
            // For: an admin, a tenant, one who looks, one who looks at all, an NBD client.
            ("GET", "/v1/openapi.json", [0, 0, 0, 0, 403]),
            ("POST", "/v1/openapi.json", [0, 403, 403, 403, 403]),
            ("GET", "/metrics", [0, 403, 403, 0, 403]),
            ("GET", "/", [0, 403, 403, 403, 403]),
            ("GET", "/v1/tenants", [0, 0, 0, 0, 403]),
            ("GET", acme, [0, 0, 0, 0, 403]),
            ("PUT", acme, [0, 403, 403, 403, 403]),
            ("DELETE", acme, [0, 403, 403, 403, 403]),
            ("GET", "/v1/tenants/acme/disks/a", [0, 0, 0, 0, 403]),
            ("HEAD", "/v1/tenants/acme/disks/a", [0, 0, 0, 0, 403]),
            ("PUT", "/v1/tenants/acme/disks/a", [0, 0, 403, 403, 403]),
            ("POST", "/v1/tenants/acme/populate", [0, 0, 403, 403, 403]),
            ("GET", "/v1/tenants/acme/disks/a/nbd", [0, 0, 403, 403, 403]),
            ("GET", "/v1/tenants/other/disks/a", [0, 404, 404, 0, 403]),
            ("PUT", "/v1/tenants/other/disks/a", [0, 404, 404, 403, 403]),
            ("GET", "/v1/tenants/%61cme/disks", [0, 404, 404, 0, 403]),
            ("GET", "/v1/tenants/", [0, 404, 404, 0, 403]),
        ];
        let callers = [
            holder(FIRST, Role::Admin),
            holder("acme", Role::Tenant),
            holder("acme", Role::ReadOnly),
            holder(FIRST, Role::ReadOnly),
            holder("acme", Role::Connect),
        ];
        for (method, path, statuses) in rows {
            for (caller, status) in callers.iter().zip(statuses) {
                assert_eq!(refused(caller, method, path), status, "{caller:?} {method} {path}");
            }
        }
        let first = holder(FIRST, Role::Tenant);
        assert_eq!(refused(&first, "GET", "/v1/tenants/default/disks"), 0);
        assert_eq!(refused(&first, "GET", "/v1/tenants/acme/disks"), 404);
        assert!(!first.is_admin() && callers[0].is_admin());
    }

    #[test]
    fn callers_are_known_by_their_tokens_or_the_socket() {
        let entries = Entries::default();
        let token = Token { role: Role::Tenant, digest: Digest::of("secret"), origin: Origin::Api };
        entries.tokens.set("acme", "t", token).unwrap();
        let local = Client::Unix(None);
        let remote = Client::Tcp("127.0.0.1:1".parse().unwrap());
        let find = |client: Client, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            caller(&entries, client, &headers).ok()
        };
        assert_eq!(find(local, &[]), Some(Caller::Administrator(local)));
        assert_eq!(find(remote, &[]), None);
        assert_eq!(find(Client::Unknown, &[]), None);
        for client in [local, remote] {
            let known = Some(holder("acme", Role::Tenant));
            assert_eq!(find(client, &["Bearer secret"]), known);
            assert_eq!(find(client, &["bearer  secret "]), known);
            for wrong in
                ["Bearer", "Bearer ", "secret", "Basic secret", "Bearer Secret", "Bearer x"]
            {
                assert_eq!(find(client, &[wrong]), None, "a wrong token is no administrator");
            }
            assert_eq!(find(client, &["Bearer secret", "Bearer secret"]), None);
        }
    }
}
