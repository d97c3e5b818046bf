//! The bodies of requests: JSON objects.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::problem::Problem;

/// Time limit for a body, so that clients that send slowly do not keep others waiting.
const LIMIT: Duration = Duration::from_secs(10);

/// A body that is a JSON object of this type. serde would take an array of the values as well.
pub(super) struct Object<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Object<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Json::<Map<String, Value>>::from_request(request, state);
        let Json(object) = tokio::time::timeout(LIMIT, body).await.map_err(|_| {
            let detail = format!("the body did not come within {LIMIT:?}");
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        })??;
        let parsed = serde_path_to_error::deserialize(Value::Object(object));
        parsed.map(Self).map_err(|error| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body: {error}"))
        })
    }
}
