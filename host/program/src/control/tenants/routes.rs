//! Tenants and tokens in the API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use axum::{Extension, Router};
use memnbd::exports::SharedBudgets;
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::super::api::{Description as OfTenants, no_method, no_route};
use super::super::changes::Origin;
use super::super::door::Caller;
use super::super::metrics;
use super::super::object::Object;
use super::super::path::{At, OfTenant, OfToken, TheTenant};
use super::super::problem::{BadBody, BadRequest, NotFound, Problem};
use super::tokens::NotSet;
use super::{
    FIRST, Founded, Role, Tenant, TenantSpec, Tenants, Token, check_tenant, check_token, unknown,
};
use crate::grants::Grants;
use crate::secret::{Digest, new_secret};

type Shared = State<Arc<Tenants>>;

/// The description of the whole API.
#[derive(OpenApi)]
#[openapi(paths(
    list_tenants,
    show_tenant,
    put_tenant,
    remove_tenant,
    list_tokens,
    put_token,
    remove_token,
    metrics::show_metrics
))]
struct Description;

/// Returns the description of the API.
pub(crate) fn description() -> utoipa::openapi::OpenApi {
    let mut description = OfTenants::openapi();
    description.merge(Description::openapi());
    let problem = |text: &str| {
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        ResponseBuilder::new()
            .description(text)
            .content("application/problem+json", content)
            .build()
    };
    for item in description.paths.paths.values_mut() {
        let methods =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for (status, text) in [
                ("401", "There is no token, or none that the server knows"),
                ("403", "The caller may not do that"),
                ("429", "There are too many connections with tokens of the tenant"),
            ] {
                responses.entry(status.into()).or_insert_with(|| problem(text).into());
            }
        }
    }
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", token);
    description.security =
        Some(vec![SecurityRequirement::default(), SecurityRequirement::new("token", [""; 0])]);
    description
}

/// Returns the routes of tenants and tokens. What is for a tenant goes to the router of that tenant.
pub(crate) fn router(tenants: Arc<Tenants>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(async || Json(description())))
        .route("/metrics", get(metrics::show_metrics))
        .route("/v1/tenants", get(list_tenants))
        .route("/v1/tenants/{tenant}", get(show_tenant).put(put_tenant).delete(remove_tenant))
        .route("/v1/tenants/{tenant}/tokens", get(list_tokens))
        .route("/v1/tenants/{tenant}/tokens/{token}", put(put_token).delete(remove_token))
        .fallback(of_tenant)
        .method_not_allowed_fallback(no_method)
        .with_state(tenants)
}

/// Hands a request to the tenant whose it is.
async fn of_tenant(State(tenants): Shared, request: Request) -> Response {
    use axum::response::IntoResponse as _;
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix("/v1/tenants/") else {
        return no_route(request.uri().clone()).await.into_response();
    };
    let name = rest.split('/').next().unwrap_or_default();
    match tenants.get(name) {
        // It cannot fail.
        Some(tenant) => match tenant.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => unknown(name).into_response(),
    }
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantState {
    name: String,
    /// What it may have, and how its clients are recognised; absent for the tenant `default`, which has no
    /// quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<TenantSpec>,
    usage: TenantUsage,
}

/// What a tenant has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantUsage {
    disks: usize,
    snapshots: usize,
    /// The clients that are connected to its disks.
    connections: usize,
    /// The memory in use of the quota, in bytes; of the tenant `default`, that of the whole server.
    memory: u64,
    /// The memory of requests under way, in bytes; absent for the tenant `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    inflight: Option<u64>,
    /// How many processors the components used in the last second; absent without a quota for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<f64>,
    /// The sizes of the disks that are or were open, in bytes; absent for the tenant `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl TenantState {
    fn of(tenant: &Tenant) -> Self {
        let Tenant { name, api, bounds, .. } = tenant;
        let memory = match bounds {
            Some(bounds) => bounds.budgets.memory.used(),
            None => api.maker.process().memory().used(),
        };
        let spec = tenant.spec();
        let budgets = bounds.as_ref().map(|bounds| &bounds.budgets);
        let limited = spec.as_ref().is_some_and(|spec| spec.quotas.cpus.is_some());
        let load = |budgets: &SharedBudgets| budgets.time.load() as f64 / 1000.0;
        let usage = TenantUsage {
            disks: api.server.export_count(),
            snapshots: api.catalog().snapshots().len(),
            connections: api.server.clients().len(),
            memory,
            inflight: budgets.map(|budgets| budgets.buffers.used()),
            cpus: budgets.filter(|_| limited).map(load),
            size: bounds.as_ref().map(|bounds| bounds.sizes.used()),
        };
        Self { name: name.clone(), spec, usage }
    }
}

/// Lists the tenants that the caller may see, with what they may have and what they have.
#[utoipa::path(get, path = "/v1/tenants", responses((status = 200, body = Vec<TenantState>)))]
async fn list_tenants(
    State(tenants): Shared,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<TenantState>> {
    let all = [tenants.first.clone()].into_iter().chain(tenants.others());
    let seen = all.filter(|tenant| caller.sees(&tenant.name));
    Json(seen.map(|tenant| TenantState::of(&tenant)).collect())
}

/// Shows a tenant, with what it may have and what it has.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}",
    params(TheTenant),
    responses((status = 200, body = TenantState), NotFound)
)]
async fn show_tenant(
    State(tenants): Shared,
    At(TheTenant { tenant: name }): At<TheTenant>,
) -> Result<Json<TenantState>, Problem> {
    let tenant = tenants.get(&name).ok_or_else(|| unknown(&name))?;
    Ok(Json(TenantState::of(&tenant)))
}

/// Creates a tenant, or changes what it may have and how its clients are recognised. What it has beyond new
/// quotas stays, but it gets no more. For admins only.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}",
    params(TheTenant),
    request_body = TenantSpec,
    responses(
        (status = 200, description = "It exists, and may have this now", body = TenantState),
        (status = 201, description = "It was created", body = TenantState),
        BadRequest,
        (status = 403, description = "The caller is no admin", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "A client would be of two tenants, or the configuration file has the \
            tenant", body = Problem, content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "There are too many tenants", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn put_tenant(
    State(tenants): Shared,
    At(TheTenant { tenant: name }): At<TheTenant>,
    Object(spec): Object<TenantSpec>,
) -> Result<(StatusCode, Json<TenantState>), Problem> {
    check_tenant(&name).map_err(Problem::bad_request)?;
    spec.check().map_err(Problem::bad_request)?;
    let _alone = tenants.changing.lock().await;
    if let Some(tenant) = tenants.get(&name) {
        refuse_of_file(&tenant)?;
        tenants.change(&tenant, spec)?;
        return Ok((StatusCode::OK, Json(TenantState::of(&tenant))));
    }
    let maker = &tenants.first.api.maker;
    let founded = Founded::of_origin(&name, spec, Grants::default(), maker, Origin::Api);
    let tenant = tenants.open(founded)?;
    tracing::info!("tenant {name:?}: created");
    Ok((StatusCode::CREATED, Json(TenantState::of(&tenant))))
}

/// Removes a tenant with its disks, snapshots and tokens. Its clients are disconnected. For admins only.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}",
    params(TheTenant),
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "The caller is no admin", body = Problem,
            content_type = "application/problem+json"),
        NotFound,
        (status = 409, description = "It is `default`, or the configuration file has it", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn remove_tenant(
    State(tenants): Shared,
    At(TheTenant { tenant: name }): At<TheTenant>,
) -> Result<StatusCode, Problem> {
    // To its end, even if the client does not wait for it.
    let removing = tokio::spawn(async move {
        let _alone = tenants.changing.lock().await;
        let tenant = tenants.get(&name).ok_or_else(|| unknown(&name))?;
        if tenant.bounds.is_none() {
            return Err(Problem::conflict(format!("the tenant {FIRST:?} is always there")));
        }
        refuse_of_file(&tenant)?;
        drop(tenant);
        tenants.remove(&name).await
    });
    removing.await.unwrap_or_else(|_| Err(Problem::failed())).map(|()| StatusCode::NO_CONTENT)
}

/// Refuses to change what the configuration file says.
fn refuse_of_file(tenant: &Tenant) -> Result<(), Problem> {
    match tenant.bounds.as_ref().map(|bounds| bounds.origin) {
        Some(Origin::File) => Err(Problem::conflict(format!(
            "the configuration file has the tenant {:?}, and changes it",
            tenant.name
        ))),
        Some(Origin::Api) => Ok(()),
        None => Err(Problem::conflict(format!("the tenant {FIRST:?} is the administrator's"))),
    }
}

/// What a token is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "tenant"}))]
pub(crate) struct TokenSpec {
    role: Role,
    /// The digest of the secret: `sha256:` and the SHA-256 of it, in 64 hexadecimal digits, as `memnbd token`
    /// prints it. Without it, the server makes a secret, and tells it once.
    #[serde(default)]
    #[schema(pattern = "^sha256:[0-9a-fA-F]{64}$")]
    digest: Option<String>,
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenState {
    name: String,
    role: Role,
    /// The digest of the secret.
    digest: String,
    /// The secret, which is told only when the server has made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Lists the tokens of a tenant, without their secrets, which the server does not have.
#[utoipa::path(
    get,
    path = "/v1/tenants/{tenant}/tokens",
    params(OfTenant),
    responses((status = 200, body = Vec<TokenState>), NotFound)
)]
async fn list_tokens(
    State(tenants): Shared,
    At(TheTenant { tenant }): At<TheTenant>,
) -> Result<Json<Vec<TokenState>>, Problem> {
    tenants.get(&tenant).ok_or_else(|| unknown(&tenant))?;
    let tokens = tenants.entries.tokens.of(&tenant).into_iter();
    let state = |(name, Token { role, digest, .. }): (String, Token)| TokenState {
        name,
        role,
        digest: digest.to_string(),
        secret: None,
    };
    Ok(Json(tokens.map(state).collect()))
}

/// Creates a token, or gives it another secret or role, which takes effect with the next request. With a
/// digest, doing it again changes nothing; without one, each time makes a new secret.
#[utoipa::path(
    put,
    path = "/v1/tenants/{tenant}/tokens/{token}",
    params(OfToken),
    request_body = TokenSpec,
    responses(
        (status = 200, description = "It exists, and is this now", body = TokenState),
        (status = 201, description = "It was created", body = TokenState),
        BadRequest,
        (status = 403, description = "The caller may only look", body = Problem,
            content_type = "application/problem+json"),
        NotFound,
        (status = 409, description = "Another token has this digest, or the configuration file has the token",
            body = Problem, content_type = "application/problem+json"),
        BadBody,
        (status = 507, description = "The tenant has too many tokens", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn put_token(
    State(tenants): Shared,
    Extension(caller): Extension<Caller>,
    At(OfToken { tenant, token: name }): At<OfToken>,
    Object(TokenSpec { role, digest }): Object<TokenSpec>,
) -> Result<(StatusCode, Json<TokenState>), Problem> {
    tenants.get(&tenant).ok_or_else(|| unknown(&tenant))?;
    check_token(&name).map_err(Problem::bad_request)?;
    if role == Role::Admin && tenant != FIRST {
        return Err(Problem::bad_request(format!(
            "only tokens of the tenant {FIRST:?} can be those of an admin"
        )));
    }
    refuse_unless_admin(&tenant, &caller)?;
    let (digest, secret) = match digest {
        Some(text) => {
            let digest: Result<Digest, _> = text.parse();
            (digest.map_err(|form| Problem::bad_request(format!("digest: {form}")))?, None)
        }
        None => {
            let secret = new_secret().map_err(|error| {
                tracing::error!("no random numbers for a secret: {error}");
                Problem::failed()
            })?;
            (Digest::of(&secret), Some(secret))
        }
    };
    let token = Token { role, digest, origin: Origin::Api };
    let is_new = tenants.entries.tokens.set(&tenant, &name, token).map_err(refused)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TokenState { name, role, digest: digest.to_string(), secret })))
}

/// Removes a token. Whoever has its secret is refused from the next request on; connections of NBD clients
/// that it let in stay.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{tenant}/tokens/{token}",
    params(OfToken),
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "The caller may only look", body = Problem,
            content_type = "application/problem+json"),
        NotFound,
        (status = 409, description = "The configuration file has it", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn remove_token(
    State(tenants): Shared,
    Extension(caller): Extension<Caller>,
    At(OfToken { tenant, token }): At<OfToken>,
) -> Result<StatusCode, Problem> {
    refuse_unless_admin(&tenant, &caller)?;
    match tenants.entries.tokens.remove(&tenant, &token).map_err(refused)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("there is no token {token:?}"))),
    }
}

/// Refuses to change the tokens of the first tenant, of which some are those of admins.
fn refuse_unless_admin(tenant: &str, caller: &Caller) -> Result<(), Problem> {
    match tenant == FIRST && !caller.is_admin() {
        true => Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!("tokens of the tenant {FIRST:?} are made and removed by admins"),
        )),
        false => Ok(()),
    }
}

fn refused(error: NotSet) -> Problem {
    match error {
        NotSet::Full => Problem::full(error.to_string()),
        NotSet::Taken | NotSet::OfFile => Problem::conflict(error.to_string()),
    }
}
