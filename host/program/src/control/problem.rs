//! Errors of the control API, as problem details (RFC 9457).

use std::any::Any;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// Why a request was not carried out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "title": "Not Found",
    "status": 404,
    "detail": "there is no disk \"dsik\"; did you mean \"disk\"?"
}))]
pub(super) struct Problem {
    /// The name of the status.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What was wrong, the rule, and what would be right.
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { title, status: status.as_u16(), detail: detail.into() }
    }

    /// What was wrong, the rule, and what would be right.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns true if the response has this status.
    pub(super) fn is(&self, status: StatusCode) -> bool {
        self.status == status.as_u16()
    }

    /// Returns the same problem with another detail.
    pub(super) fn with(self, detail: impl FnOnce(&str) -> String) -> Self {
        Self { detail: detail(&self.detail), ..self }
    }

    /// The server failed to handle the request.
    pub(super) fn failed() -> Self {
        let detail = "the server failed to handle the request; its log has the reason";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// The request makes no sense.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What the request names does not exist.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// There is no room for more.
    pub(super) fn full(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, detail)
    }

    /// The present state does not allow it.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// The response when the handler of a request panics.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response<axum::body::Body> {
    Problem::failed().into_response()
}

/// What the request names does not exist
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
#[allow(dead_code, reason = "it is a description only")]
pub(super) struct NotFound(Problem);

/// The request makes no sense
#[derive(IntoResponses)]
#[response(status = 400, content_type = "application/problem+json")]
#[allow(dead_code, reason = "it is a description only")]
pub(super) struct BadRequest(Problem);

/// What may be wrong with a body.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it is a description only")]
pub(super) enum BadBody {
    /// It did not come in time
    #[response(status = 408, content_type = "application/problem+json")]
    Late(Problem),
    /// It is too long
    #[response(status = 413, content_type = "application/problem+json")]
    Long(Problem),
    /// It is not `application/json`
    #[response(status = 415, content_type = "application/problem+json")]
    OtherType(Problem),
    /// It is not what is described here
    #[response(status = 422, content_type = "application/problem+json")]
    Other(Problem),
}
