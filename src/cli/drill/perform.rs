//! Carries out activities: programs on this machine and calls to servers, as Chaos Toolkit does, with bounds on time and
//! output.

use std::{path::PathBuf, process::Stdio, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::http::query_pairs,
    drill::{
        activity::{Arguments, Http, Process, Provider},
        substitute::python_text,
    },
};

/// Where an activity names no time-out of its own. Chaos Toolkit waits for ever.
const TIMEOUT: Duration = Duration::from_secs(3_600);
/// How long a process may take to end when it is asked to.
const END_WAIT: Duration = Duration::from_secs(5);
/// Of each stream, and of an answer, so much is kept.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// Chaos Toolkit's words.
const TOO_LONG: &str = "activity took too long to complete";

/// What performing takes.
#[derive(Clone)]
pub struct Hands {
    /// Of processes, besides this process's own.
    env: Vec<(String, String)>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Hands {
    pub fn new(env: Vec<(String, String)>) -> Hands {
        Hands { env, client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()) }
    }

    /// The activity's output: `{status, stdout, stderr}` of a process, whatever its exit code; `{status, headers, body}` of a
    /// server.
    ///
    /// # Errors
    /// It could not be carried out, took too long, or was cancelled.
    pub async fn perform(&self, provider: &Provider, cancel: &CancellationToken) -> Result<Value, String> {
        match provider {
            Provider::Process(process) => self.run(process, cancel).await,
            Provider::Http(http) => tokio::select! {
                answer = tokio::time::timeout(http.timeout.unwrap_or(TIMEOUT), self.call(http)) => {
                    answer.unwrap_or_else(|_| Err(TOO_LONG.to_owned()))
                }
                () = cancel.cancelled() => Err("interrupted".to_owned()),
            },
        }
    }

    async fn run(&self, process: &Process, cancel: &CancellationToken) -> Result<Value, String> {
        let mut command = match &process.arguments {
            Arguments::List(arguments) => {
                let mut command = Command::new(&process.program);
                command.args(arguments);
                command
            }
            Arguments::Shell(line) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(format!("{} {line}", process.program.display()));
                command
            }
        };
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is for the runner, which ends its steps in its own order.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", process.program.display()))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let whole = async move {
            let (ended, stdout, stderr) = tokio::join!(child.wait(), collect(stdout), collect(stderr));
            let ended = ended.map_err(|error| error.to_string())?;
            use std::os::unix::process::ExitStatusExt;
            // A process that a signal ended has a negative code, as in Python.
            let code = ended.code().or_else(|| ended.signal().map(|signal| -signal));
            Ok(json!({ "status": code, "stdout": stdout, "stderr": stderr }))
        };
        tokio::pin!(whole);
        let why = tokio::select! {
            done = &mut whole => return done,
            () = tokio::time::sleep(process.timeout.unwrap_or(TIMEOUT)) => "process activity took too long to complete",
            () = cancel.cancelled() => "interrupted",
        };
        for signal in [Signal::TERM, Signal::KILL] {
            if let Some(group) = group {
                // Fails only if all of it is gone.
                let _ = kill_process_group(group, signal);
            }
            if tokio::time::timeout(END_WAIT, &mut whole).await.is_ok() {
                break;
            }
        }
        Err(why.to_owned())
    }

    async fn call(&self, http: &Http) -> Result<Value, String> {
        let failed = |error: &dyn std::fmt::Display| format!("failed to connect to {}: {error}", http.url);
        let method = Method::from_bytes(http.method.as_bytes()).map_err(|error| failed(&error))?;
        let pairs = || -> Vec<(String, String)> {
            let members = http.arguments.as_object().into_iter().flatten();
            members.map(|(name, value)| (name.clone(), python_text(value))).collect()
        };
        let is_json = http.headers.iter().any(|(name, value)| name == "Content-Type" && value == "application/json");
        let mut url = http.url.clone();
        let mut body = Bytes::new();
        let mut form = false;
        match &http.arguments {
            Value::Null => {}
            arguments if method != Method::GET && is_json => body = arguments.to_string().into(),
            Value::Object(_) if method == Method::GET => {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(&query_pairs(&pairs()));
            }
            Value::Object(_) => {
                form = true;
                body = query_pairs(&pairs()).into();
            }
            arguments => body = python_text(arguments).into(),
        }
        let mut request = Request::builder().method(method).uri(&url);
        for (name, value) in &http.headers {
            request = request.header(name, value);
        }
        if form && !http.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let response = self.client.request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, OUTPUT_BYTES_MAX).collect().await.map_err(|error| failed(&error))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let is_json = head.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        let body = match is_json {
            true => serde_json::from_slice(&body).map_err(|error| format!("{}: {error}", http.url))?,
            false => Value::String(text),
        };
        let headers = head.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        let headers: serde_json::Map<_, _> = headers.collect();
        Ok(json!({ "status": head.status.as_u16(), "headers": headers, "body": body }))
    }
}

/// The beginning of a stream as text; the rest is read and thrown away, so that its writer can go on.
async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return String::new() };
    let mut piece = vec![0; 16 << 10];
    while let Ok(count) = stream.read(&mut piece).await {
        if count == 0 {
            break;
        }
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&piece[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The folders of `PATH` with the running program's own first.
pub fn folders() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|program| program.parent().map(PathBuf::from));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter().chain(std::env::split_paths(&path)).collect()
}

/// Whether a file can be run.
pub fn is_program(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::time::Instant;

    use super::*;
    use crate::drill::experiment::{Experiment, Surroundings};

    /// The provider of an experiment with one step.
    fn provider(provider: &str) -> Provider {
        let text = format!("title: a\ndescription: b\nmethod: [{{type: action, name: x, provider: {provider}}}]");
        let which = |name: &str| Some(PathBuf::from("/bin").join(name));
        let experiment = Experiment::parse(&text, &Surroundings { env: &|_| None, which: &which });
        experiment.expect("an experiment").method.remove(0).provider
    }

    async fn perform(text: &str) -> Result<Value, String> {
        let hands = Hands::new(vec![("GREETING".to_owned(), "hello".to_owned())]);
        hands.perform(&provider(text), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn a_process_brings_its_exit_code_and_what_it_wrote() {
        let done = perform("{type: process, path: sh, arguments: [-c, 'echo $GREETING; echo oh >&2; exit 3']}").await;
        assert_eq!(done, Ok(json!({"status": 3, "stdout": "hello\n", "stderr": "oh\n"})));
        let shell = perform("{type: process, path: echo, arguments: 'a b | tr a c'}").await;
        assert_eq!(shell.expect("done")["stdout"], "c b\n");
        let killed = perform("{type: process, path: sh, arguments: [-c, 'kill -9 $$']}").await;
        assert_eq!(killed.expect("done")["status"], -9);
        assert!(perform("{type: process, path: no-such-program}").await.is_err());
    }

    #[tokio::test]
    async fn a_process_that_takes_too_long_is_ended_with_all_it_started() {
        let began = Instant::now();
        let text = "{type: process, path: sh, timeout: 0.2, arguments: [-c, 'sleep 60 & sleep 60']}";
        assert_eq!(perform(text).await, Err("process activity took too long to complete".to_owned()));
        assert!(began.elapsed() < END_WAIT);
    }

    #[tokio::test]
    async fn a_process_that_is_interrupted_may_finish_what_it_does() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mark, ready) = (dir.path().join("mark"), dir.path().join("ready"));
        let trap = format!("trap 'echo bye > {}; exit 0' TERM; touch {}", mark.display(), ready.display());
        let script = format!("{trap}; while :; do sleep 0.05; done");
        let provider = provider(&format!("{{type: process, path: sh, arguments: [-c, \"{script}\"]}}"));
        let cancel = CancellationToken::new();
        let hands = Hands::new(Vec::new());
        let (done, ()) = tokio::join!(hands.perform(&provider, &cancel), async {
            while !ready.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            cancel.cancel();
        });
        assert_eq!(done, Err("interrupted".to_owned()));
        assert_eq!(std::fs::read_to_string(mark).expect("its last word"), "bye\n");
    }

    #[tokio::test]
    async fn more_output_than_is_kept_stops_nobody() {
        let done = perform("{type: process, path: sh, arguments: [-c, 'yes | head -c 6000000; exit 4']}").await;
        let done = done.expect("done");
        assert_eq!((done["status"].as_i64(), done["stdout"].as_str().map(str::len)), (Some(4), Some(OUTPUT_BYTES_MAX)));
    }

    /// A server that answers with what it was asked.
    async fn echo() -> u16 {
        use axum::{Json, Router, extract::Request};
        async fn handler(request: Request) -> (axum::http::StatusCode, Json<Value>) {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let kind = head.headers.get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
            let told = json!({
                "method": head.method.as_str(), "uri": head.uri.to_string(), "type": kind,
                "body": String::from_utf8_lossy(&body),
            });
            (axum::http::StatusCode::ACCEPTED, Json(told))
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        port
    }

    #[tokio::test]
    async fn a_server_is_called_as_requests_would_call_it() {
        let port = echo().await;
        let call = async |more: &str| {
            let text = format!("{{type: http, url: 'http://127.0.0.1:{port}/x', timeout: 5, {more}}}");
            let answer = perform(&text).await.expect("an answer");
            assert_eq!(answer["status"], 202);
            answer["body"].clone()
        };
        let get = call("arguments: {a: 1, b: 'x y'}").await;
        assert_eq!(get, json!({"method": "GET", "uri": "/x?a=1&b=x+y", "type": null, "body": ""}));
        let form = call("method: post, arguments: {a: 1}").await;
        let expected =
            json!({"method": "POST", "uri": "/x", "type": "application/x-www-form-urlencoded", "body": "a=1"});
        assert_eq!(form, expected);
        let json = call("method: PUT, headers: {Content-Type: application/json}, arguments: {a: [1]}").await;
        assert_eq!(json["body"], "{\"a\":[1]}");
        assert!(perform("{type: http, url: 'http://127.0.0.1:1/', timeout: 5}").await.is_err());
    }

    #[test]
    fn a_program_is_found_as_the_shell_finds_it() {
        let folders = [PathBuf::from("/nowhere"), PathBuf::from("/bin")];
        let found = |name: &str| crate::drill::activity::find_program(name, &folders, is_program);
        assert_eq!(found("sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(found("/bin/sh").as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!((found("no-such-program"), found("/bin")), (None, None));
    }
}
