use clap::Parser;

use super::{super::args::Cli, *};
use crate::{
    api::testing::{self, Server, start},
    config::Config,
    ports::documents,
};

/// Region `r0` behind the server, `r1` where nobody listens, `r2` on AWS; one type that the server has, one that it has not.
fn context(server: &Server) -> Context {
    let region = |name: &str, api: &str| format!("[[region]]\nname = \"{name}\"\napi = \"{api}\"\n");
    let text = format!(
        "{}{}[[region]]\nname = \"r2\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n\
         [state.profile]\nplays = \"counter\"\nlanguage = \"register\"\nnickname = \"multi-value\"\n\
         [state.newer]\nplays = \"counter\"\n[[link]]\nfrom = \"r0\"\nto = \"r2\"\nenabled = false\n",
        region("r0", &server.address.to_string()),
        region("r1", "127.0.0.1:9"),
    );
    let config = Config::parse(&text, "test", &|_| None).unwrap_or_else(|error| panic!("{error}"));
    Context::of(config, "test".to_owned(), false)
}

/// Runs a command line; its exit code and what it says on standard error.
async fn run(context: &Context, arguments: &[&str]) -> (u8, String) {
    let cli = Cli::try_parse_from(["hubweave", "state"].iter().chain(arguments)).expect("sound arguments");
    let super::super::args::Command::State(command) = cli.command else { panic!("another command") };
    match state(context, command).await {
        Ok(()) => (0, String::new()),
        Err(error) => (error.exit_code(), error.to_string()),
    }
}

const PLAY: &str = r#"[{"field":"plays","op":"increment","by":1}]"#;

#[tokio::test]
async fn documents_are_changed_read_and_deleted() {
    let server = start().await;
    let context = context(&server);
    let object = format!("{{\"ops\": {PLAY}}}");
    for arguments in [
        &["apply", "profile", "a/b", PLAY, "--region", "r0", "--key", "k 1"][..],
        &["apply", "profile", "a/b", &object, "--region", "r0"],
        &["get", "profile", "a/b", "--region", "r0"],
        &["delete", "profile", "a/b", "--region", "r0", "--key", "k 2"],
        &["delete", "profile", "a/b", "--region", "r0"],
    ] {
        assert_eq!(run(&context, arguments).await, (0, String::new()), "{arguments:?}");
    }
    let keys = [Some("api/profile/a/b/k 1"), None, Some("api/profile/a/b/k 2"), None];
    assert_eq!(*server.documents.requests.lock().unwrap(), keys.map(|key| key.map(str::to_owned)));
    let gone = run(&context, &["get", "profile", "a/b", "--region", "r0"]).await;
    assert_eq!(gone, (1, "error: r0: no document profile/a/b".to_owned()));
}

#[tokio::test]
async fn what_was_asked_wrongly_is_told_from_an_answer_that_is_no() {
    let server = start().await;
    let context = context(&server);
    let long = "i".repeat(513);
    let key = "k".repeat(1_025);
    for (arguments, code, why) in [
        (&["get", "order", "u", "--region", "r0"][..], 2, "there is `newer`, `profile`"),
        (&["get", "newer", "u", "--region", "r0"], 2, "document type `newer` is unknown; there are `profile`"),
        (&["get", "profile", "u", "--region", "r9"], 2, "`r9` is no region"),
        (&["get", "profile", "u", "--region", "r2"], 2, "api"),
        (&["get", "profile", "", "--region", "r0"], 2, "not empty"),
        (&["delete", "profile", &long, "--region", "r0"], 2, "the limit is 512"),
        (&["apply", "profile", "u", "{", "--region", "r0"], 2, "no JSON"),
        (&["apply", "profile", "u", "7", "--region", "r0"], 2, "an array, or an object"),
        (&["apply", "profile", "u", "{}", "--region", "r0"], 2, "`ops` is missing"),
        (&["apply", "profile", "u", r#"[{"field":"plays","op":"set","value":1}]"#, "--region", "r0"], 2, "a counter"),
        (&["apply", "profile", "u", PLAY, "--region", "r0", "--key", &key], 2, "--key has 1 to 1024"),
        (&["delete", "profile", "u", "--region", "r0", "--key", " k"], 2, "no blanks"),
        (&["get", "profile", "u", "--region", "r1"], 1, "is unreachable"),
    ] {
        let (ended, said) = run(&context, arguments).await;
        assert!(ended == code && said.contains(why), "{arguments:?}: {ended} {said}");
    }
    assert!(server.documents.requests.lock().unwrap().is_empty());
    *server.documents.failure.lock().unwrap() = Some(documents::Error::Failed("the disk".to_owned()));
    let (ended, said) = run(&context, &["get", "profile", "u", "--region", "r0"]).await;
    assert!(ended == 1 && said.contains("answered 500: the documents failed: the disk"), "{said}");
    let none = testing::start_without_documents().await;
    let (ended, said) = run(&self::context(&none), &["get", "profile", "u", "--region", "r0"]).await;
    assert!(ended == 2 && said.contains("no document types"), "{said}");
}

fn shown(answer: &str) -> String {
    text(&serde_json::from_str(answer).expect("an answer"))
}

#[test]
fn a_document_is_shown_as_it_is() {
    let answer = r#"{"type":"profile","id":"u1","value":{"plays":36893488147419103229,"nickname":"b","best":0.12345678901234567890123},
        "version":"0","conflicts":{"nickname":["\"a\"","\"b\""]},"unread":["old"]}"#;
    let lines = "profile/u1\n  best: 0.12345678901234567890123\n  nickname: \"b\"\n  plays: 36893488147419103229\n  \
                 nickname was written in several regions at once: \"\\\"a\\\"\", \"\\\"b\\\"\"\n  \
                 old holds something that the file has no field for, or one of another kind";
    assert_eq!(shown(answer), lines);
    let gone = r#"{"type":"p","id":"u","outcome":"duplicate","value":null,"version":"","conflicts":{}}"#;
    assert_eq!(shown(gone), "p/u (duplicate)\n  it does not exist");
    let unseen = shown(r#"{"type":"p","id":"u","outcome":"applied"}"#);
    assert!(unseen.starts_with("p/u (applied)\n  it could not be read again"), "{unseen}");
}

#[test]
fn operations_are_sent_as_they_are_written() {
    let read = |text: &str| read(text.to_owned()).expect("operations");
    let exact = r#"[{"field":"best","op":"max","value":0.12345678901234567890123}]"#;
    assert_eq!(read(&format!(" {exact}\n")), format!("{{\"ops\":{exact}}}"));
    assert_eq!(read("{\"ops\" : [ ] }\n"), "{\"ops\" : [ ] }");
}
