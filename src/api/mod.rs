//! What services send, before it has to do with HTTP: bytes in, drafts or a refusal out.
//!
//! - [`put_events`]: EventBridge's own wire protocol (`POST /` with `X-Amz-Target: AWSEvents.PutEvents`)
//! - [`cloudevents`]: CloudEvents 1.0 over HTTP (`POST /v1/events`)

pub mod cloudevents;
pub mod put_events;
