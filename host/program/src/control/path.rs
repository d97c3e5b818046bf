//! The parts of paths that name something.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// The only tenant there is.
const TENANT: &str = "default";

/// The tenants.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code, reason = "it is a description only")]
enum Tenant {
    /// The only one.
    Default,
}

/// A path below a tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfTenant {
    /// The tenant, `default`.
    #[param(value_type = Tenant, inline)]
    tenant: String,
}

/// A disk, or what belongs to it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfDisk {
    /// The tenant, `default`.
    #[param(value_type = Tenant, inline)]
    tenant: String,
    /// The name of the disk, at most 255 bytes.
    pub(super) disk: String,
}

/// A snapshot.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfSnapshot {
    /// The tenant, `default`.
    #[param(value_type = Tenant, inline)]
    tenant: String,
    /// The name of the snapshot, at most 255 bytes.
    pub(super) snapshot: String,
}

/// A connection.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfConnection {
    /// The tenant, `default`.
    #[param(value_type = Tenant, inline)]
    tenant: String,
    /// The number of the connection.
    pub(super) id: u64,
}

/// What belongs to a tenant.
pub(super) trait Owned {
    fn tenant(&self) -> &str;
}

macro_rules! owned {
    ($($name:ty),+) => {
        $(impl Owned for $name {
            fn tenant(&self) -> &str {
                &self.tenant
            }
        })+
    };
}

owned!(OfTenant, OfDisk, OfSnapshot, OfConnection);

/// The path of a request, whose tenant exists.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Owned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(path) = Path::<T>::from_request_parts(parts, state).await?;
        match path.tenant() {
            TENANT => Ok(Self(path)),
            other => Err(Problem::not_found(format!(
                "there is no tenant {other:?}; the only one is {TENANT:?}"
            ))),
        }
    }
}
