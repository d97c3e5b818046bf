//! The parts of paths that name something.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::problem::Problem;

/// A path below a tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfTenant {
    /// The tenant, such as `default`.
    #[allow(dead_code, reason = "the request got here because it is this one's")]
    #[param(example = "default")]
    tenant: String,
}

/// A disk, or what belongs to it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfDisk {
    /// The tenant, such as `default`.
    #[allow(dead_code, reason = "the request got here because it is this one's")]
    #[param(example = "default")]
    tenant: String,
    /// The name of the disk, at most 255 bytes.
    pub(super) disk: String,
}

/// A snapshot.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfSnapshot {
    /// The tenant, such as `default`.
    #[allow(dead_code, reason = "the request got here because it is this one's")]
    #[param(example = "default")]
    tenant: String,
    /// The name of the snapshot, at most 255 bytes.
    pub(super) snapshot: String,
}

/// An export.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfExport {
    /// The tenant, such as `default`.
    #[allow(dead_code, reason = "the request got here because it is this one's")]
    #[param(example = "default")]
    tenant: String,
    /// The name of the export, at most 255 bytes.
    pub(super) export: String,
}

/// A connection.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfConnection {
    /// The tenant, such as `default`.
    #[allow(dead_code, reason = "the request got here because it is this one's")]
    #[param(example = "default")]
    tenant: String,
    /// The number of the connection.
    pub(super) id: u64,
}

/// A tenant's token.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfToken {
    /// The tenant, such as `default`.
    #[param(example = "default")]
    pub(super) tenant: String,
    /// The name of the token: at most 63 lower-case letters, digits and -, of which the first is a letter.
    #[param(pattern = "^[a-z][a-z0-9-]{0,62}$")]
    pub(super) token: String,
}

/// A tenant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TheTenant {
    /// The name of the tenant: at most 63 lower-case letters, digits and -, of which the first is a letter.
    #[param(example = "default", pattern = "^[a-z][a-z0-9-]{0,62}$")]
    pub(super) tenant: String,
}

/// The path of a request.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(path) = Path::<T>::from_request_parts(parts, state).await?;
        Ok(Self(path))
    }
}
