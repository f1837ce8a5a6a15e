//! What a failed call says about what became of it.

use std::{error::Error, time::Duration};

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::core::link::Failure;

/// How long a caller that was throttled waits at least; the loops above add their own backing off.
const THROTTLED_PAUSE: Duration = Duration::from_millis(500);

/// Error codes that ask for a pause. Nothing was done then.
const THROTTLING: [&str; 17] = [
    "BandwidthLimitExceeded",
    "KMS.ThrottlingException",
    "KmsThrottled",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingError",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflict",
];

/// The service asks for a pause.
pub fn is_throttling(code: &str) -> bool {
    THROTTLING.binary_search(&code).is_ok()
}

/// A refusal, as [`Failure::Refused`] tells it, is about a permission.
pub fn is_denial(why: &str) -> bool {
    ["AccessDenied", "AuthorizationError", "UnauthorizedOperation", "Forbidden", "AllAccessDisabled"]
        .iter()
        .any(|code| why.starts_with(code))
}

/// The service may have done it, or half of it.
fn is_internal(code: &str) -> bool {
    matches!(
        code,
        "InternalException"
            | "InternalFailure"
            | "InternalError"
            | "InternalServerError"
            | "InternalServiceException"
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
    )
}

/// What SQS puts before some of its codes.
const OF_SQS: &str = "AWS.SimpleQueueService.";

/// The failure of one entry of a call, or of a whole one, by its code.
pub fn of_code(code: &str, why: &str) -> Failure {
    let code = code.strip_prefix(OF_SQS).unwrap_or(code);
    let text = match why.is_empty() {
        true => code.to_owned(),
        false => format!("{code}: {why}"),
    };
    match code {
        code if is_throttling(code) => Failure::Throttled { after: THROTTLED_PAUSE },
        code if is_internal(code) => Failure::Unanswered(text),
        _ => Failure::Refused(text),
    }
}

/// What a failed call says: [`Failure::Refused`] and [`Failure::Throttled`] only if the service answered that it did
/// nothing.
pub fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let code = context.err().code().unwrap_or("UnknownError");
            let why = context.err().message().unwrap_or_default();
            let status = context.raw().status().as_u16();
            match status {
                // It was done, and what the answer says is lost: it broke off on its way.
                200..300 => Failure::Unanswered(format!("an answer that cannot be read: {}", chain(error))),
                429 | 503 if !is_internal(code) => Failure::Throttled { after: THROTTLED_PAUSE },
                500.. => Failure::Unanswered(format!("{code} ({status}): {why}")),
                _ => of_code(code, why),
            }
        }
        // Nothing was sent.
        SdkError::ConstructionFailure(_) => Failure::Refused(chain(error)),
        SdkError::TimeoutError(_) => Failure::Unanswered("no answer in time".to_owned()),
        _ => Failure::Unanswered(chain(error)),
    }
}

/// An error with what caused it: the SDK's own text says little more than "dispatch failure".
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_throttling_codes_is_sorted() {
        assert!(THROTTLING.is_sorted());
        assert!(is_throttling("SlowDown") && !is_throttling("ValidationException"));
    }

    #[test]
    fn a_code_says_whether_anything_was_done() {
        assert!(matches!(of_code("ThrottlingException", ""), Failure::Throttled { .. }));
        assert_eq!(of_code("InternalFailure", "x"), Failure::Unanswered("InternalFailure: x".to_owned()));
        assert_eq!(of_code("MalformedDetail", ""), Failure::Refused("MalformedDetail".to_owned()));
        assert!(matches!(of_code("AWS.SimpleQueueService.ThrottlingException", ""), Failure::Throttled { .. }));
    }
}
