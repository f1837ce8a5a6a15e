//! A topology that lies in the parameter store or in a bucket, so that all agents of a region start from one text.

use std::time::Duration;

use aws_sdk_s3 as s3;
use aws_sdk_ssm as ssm;

use super::{
    clients::{Options, loader},
    failure,
};

/// Of one call.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topology is some kilobytes; this is none.
const BYTES_MAX: i64 = 1 << 20;

/// Where a text lies.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Parameter(String),
    Object { bucket: &'a str, key: &'a str },
}

/// `ssm://NAME`, where a name with a path may leave its first slash out, or `s3://BUCKET/KEY`.
fn place(location: &str) -> Option<Place<'_>> {
    if let Some(name) = location.strip_prefix("ssm://").filter(|name| !name.trim_matches('/').is_empty()) {
        let is_relative = name.contains('/') && !name.starts_with('/');
        return Some(Place::Parameter(if is_relative { format!("/{name}") } else { name.to_owned() }));
    }
    let (bucket, key) = location.strip_prefix("s3://")?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some(Place::Object { bucket, key })
}

/// The text at `location`, in the region and with the credentials that the environment or the machine's role gives.
///
/// # Errors
/// Nothing lies there, it is no text, or it cannot be reached; the message says which.
pub async fn read(location: &str) -> Result<String, String> {
    let place = place(location).ok_or("expected ssm://NAME or s3://BUCKET/KEY")?;
    let shared = loader(&Options { attempt_timeout: PATIENCE, retries: 2, requests: None }).load().await;
    if shared.region().is_none() {
        return Err("no AWS region: set AWS_REGION".to_owned());
    }
    match place {
        Place::Parameter(name) => {
            let client = ssm::Client::new(&shared);
            let answer = client.get_parameter().name(name).with_decryption(true).send().await;
            let parameter = answer.map_err(|error| unreadable(&failure(&error)))?.parameter;
            parameter.and_then(|parameter| parameter.value).ok_or_else(|| "cannot be read: it has no value".to_owned())
        }
        Place::Object { bucket, key } => {
            let client = s3::Client::from_conf(s3::config::Builder::from(&shared).force_path_style(true).build());
            let answer = client.get_object().bucket(bucket).key(key).send().await;
            let object = answer.map_err(|error| unreadable(&failure(&error)))?;
            if object.content_length.is_some_and(|length| length > BYTES_MAX) {
                return Err(format!("cannot be read: more than {} KiB is no topology", BYTES_MAX >> 10));
            }
            let body = tokio::time::timeout(PATIENCE, object.body.collect()).await;
            let body = body.map_err(|_| format!("cannot be read: no end within {PATIENCE:?}"))?;
            let bytes = body.map_err(|error| format!("cannot be read: {error}"))?.to_vec();
            String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())
        }
    }
}

fn unreadable(failure: &crate::core::link::Failure) -> String {
    format!("cannot be read: {failure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameters_path_begins_with_a_slash_and_a_bucket_ends_at_the_first() {
        let parameter = |name: &str| Some(Place::Parameter(name.to_owned()));
        assert_eq!(place("ssm://topology"), parameter("topology"));
        assert_eq!(place("ssm:///hubweave/topology"), parameter("/hubweave/topology"));
        assert_eq!(place("ssm://hubweave/topology"), parameter("/hubweave/topology"));
        assert_eq!(place("s3://b/a/t.toml"), Some(Place::Object { bucket: "b", key: "a/t.toml" }));
        assert!(["ssm://", "ssm:///", "s3://b", "s3://b/", "s3:///k"].iter().all(|wrong| place(wrong).is_none()));
    }
}
