//! Two regions on an emulated AWS, made by `provision`, each with a queue that shows what is on its bus.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Done, EU, HUBWEAVE, PATIENCE, Request, US, finish, free_port, until};
use crate::ministack::MiniStack;

/// Neither the tester's profile nor a proxy nor a machine's role.
const SURROUNDINGS: [(&str, &str); 8] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("NO_PROXY", "127.0.0.1"),
    ("AWS_PAGER", ""),
];

pub struct AwsCluster {
    directory: TempDir,
    pub file: PathBuf,
    /// The bus in both regions, and what names begin with.
    pub name: String,
    /// Of the second region, where its options name a role.
    second_account: String,
    /// The `admin` listeners of the file, by region.
    admins: BTreeMap<&'static str, u16>,
    agents: Vec<Child>,
}

/// The account of credentials that say nothing of one.
const ACCOUNT: &str = "000000000000";

impl AwsCluster {
    /// The file alone; nothing is made.
    pub fn describe(more: &str) -> AwsCluster {
        AwsCluster::describe_with(more, "")
    }

    /// The same, with more options of the second region's `[region.aws]`.
    pub fn describe_with(more: &str, of_second: &str) -> AwsCluster {
        AwsCluster::describe_at(&MiniStack::get().url(), more, of_second)
    }

    /// The same, where hubweave finds AWS at this address.
    pub fn describe_at(url: &str, more: &str, of_second: &str) -> AwsCluster {
        let directory = tempfile::Builder::new().prefix("hubweave-aws-").tempdir().expect("a temporary directory");
        let name = MiniStack::unique("e2e");
        let mut text = format!("[cluster]\nname = \"{name}\"\n[heartbeat]\ninterval = \"1s\"\n");
        let admins = BTreeMap::from([EU, US].map(|region| (region, free_port())));
        for region in [EU, US] {
            text += &format!(
                "[[region]]\nname = \"{region}\"\nbackend = \"aws\"\nadmin = \"127.0.0.1:{}\"\n[region.aws]\n\
                 hub = \"{name}\"\nprefix = \"{name}\"\nbucket = \"{name}-{region}\"\nendpoint_url = \"{url}\"\n",
                admins[region],
            );
        }
        text += of_second;
        text.push('\n');
        let file = directory.path().join("topology.toml");
        fs::write(&file, text + more).expect("the file can be written");
        let role = of_second.split("arn:aws:iam::").nth(1).and_then(|rest| rest.split(':').next());
        let second_account = role.unwrap_or(ACCOUNT).to_owned();
        AwsCluster { directory, file, name, second_account, admins, agents: Vec::new() }
    }

    /// Both regions provisioned, with a queue `<name>-sink` for everything of source `app` on each bus.
    pub fn provisioned(more: &str) -> AwsCluster {
        AwsCluster::describe(more).provision()
    }

    pub fn provision(self) -> AwsCluster {
        for region in [EU, US] {
            self.run(&["provision", "--region", region, "--apply"]).expect_code(0);
            self.make_sink(region);
        }
        self
    }

    fn account(&self, region: &str) -> &str {
        if region == US { &self.second_account } else { ACCOUNT }
    }

    fn make_sink(&self, region: &str) {
        let sink = format!("{}-sink", self.name);
        let call = |service: &str, region: &str, target: &str, body: &Value| {
            call_in(self.account(region), service, region, target, body)
        };
        call("sqs", region, "AmazonSQS.CreateQueue", &json!({ "QueueName": sink }));
        let pattern = json!({ "source": ["app"] }).to_string();
        let rule = json!({ "Name": sink, "EventBusName": self.name, "EventPattern": pattern });
        call("events", region, "AWSEvents.PutRule", &rule);
        let arn = format!("arn:aws:sqs:{region}:{}:{sink}", self.account(region));
        let target = json!({ "Rule": sink, "EventBusName": self.name, "Targets": [{ "Id": "sink", "Arn": arn }] });
        assert_eq!(call("events", region, "AWSEvents.PutTargets", &target)["FailedEntryCount"], 0);
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HUBWEAVE);
        command.args(arguments).arg("--config").arg(&self.file).current_dir(self.directory.path()).envs(SURROUNDINGS);
        super::clean(&mut command);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        finish(&mut self.command(arguments), PATIENCE * 4)
    }

    /// With a topology that lies on AWS, found by the environment alone.
    pub fn run_with(&self, location: &str, arguments: &[&str]) -> Done {
        let mut command = Command::new(HUBWEAVE);
        command.args(arguments).args(["--config", location]).current_dir(self.directory.path()).envs(SURROUNDINGS);
        command.env("AWS_ENDPOINT_URL", MiniStack::get().url());
        super::clean(&mut command);
        finish(&mut command, PATIENCE * 4)
    }

    /// The AWS CLI against the emulator.
    pub fn aws(&self, region: &str, arguments: &[&str]) -> Value {
        let aws = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/aws");
        assert!(aws.exists(), "{} is not there: run `make tools`", aws.display());
        let mut command = Command::new(aws);
        command.args(arguments).envs(SURROUNDINGS).env_remove("AWS_PROFILE");
        command.args(["--endpoint-url", &MiniStack::get().url(), "--region", region, "--output", "json"]);
        finish(&mut command, PATIENCE * 4).expect_code(0).document()
    }

    /// Starts one more agent of a region; answers which it is, and the port of its admin listener once it is ready.
    pub fn start_agent(&mut self, region: &str) -> (usize, u16) {
        self.start_agent_with(region, &[])
    }

    /// The one that commands find, as the file says where it is.
    pub fn start_first_agent(&mut self, region: &str, more: &[&str]) -> (usize, u16) {
        self.launch(region, self.admins[region], more)
    }

    pub fn start_agent_with(&mut self, region: &str, more: &[&str]) -> (usize, u16) {
        self.launch(region, free_port(), more)
    }

    fn launch(&mut self, region: &str, admin: u16, more: &[&str]) -> (usize, u16) {
        let number = self.agents.len();
        let log = fs::File::create(self.log(number)).expect("a log");
        let address = format!("127.0.0.1:{admin}");
        let child = self
            .command(&["run", "--region", region, "--admin", &address, "--parent-pipe"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("hubweave starts");
        self.agents.push(child);
        until(PATIENCE, "the agent to be ready", || Request::get("/readyz").is_ok(admin));
        (number, admin)
    }

    /// With signal 9.
    pub fn kill_agent(&mut self, number: usize) {
        self.agents[number].kill().expect("it can be killed");
        self.agents[number].wait().expect("it ends");
    }

    pub fn signal_agent(&self, number: usize, name: &str) {
        super::signal(self.agents[number].id(), name);
    }

    /// SIGTERM; its exit code.
    pub fn stop_agent(&mut self, number: usize) -> Option<i32> {
        super::signal(self.agents[number].id(), "TERM");
        let child = &mut self.agents[number];
        until(PATIENCE, "the agent to end", || child.try_wait().expect("a child").is_some());
        child.wait().expect("it ended").code()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("agent-{number}.log"))
    }

    /// Publishes events of source `app` with these keys, ten in a call.
    pub fn publish(&self, region: &str, keys: &[String]) {
        for keys in keys.chunks(10) {
            let entry = |key: &String| {
                let detail = json!({ "metadata": { "idempotencyKey": key }, "of": key }).to_string();
                json!({ "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": self.name })
            };
            let entries: Vec<Value> = keys.iter().map(entry).collect();
            let answer = call("events", region, "AWSEvents.PutEvents", &json!({ "Entries": entries }));
            assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
        }
    }

    /// Takes what there is out of the sink: envelopes by key.
    pub fn drain_sink(&self, region: &str, seen: &mut BTreeMap<String, Vec<Value>>) {
        let account = self.account(region);
        let url = format!("{}/{account}/{}-sink", MiniStack::get().url(), self.name);
        let call =
            |service: &str, region: &str, target: &str, body: &Value| call_in(account, service, region, target, body);
        loop {
            let ask = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0 });
            let answer = call("sqs", region, "AmazonSQS.ReceiveMessage", &ask);
            let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return;
            }
            let mut receipts = Vec::new();
            for (index, message) in messages.iter().enumerate() {
                let envelope: Value = serde_json::from_str(message["Body"].as_str().expect("a body")).expect("JSON");
                // Of a detail that stands elsewhere only the stamp says it.
                let detail = &envelope["detail"];
                let key = detail["of"].as_str().or(detail["hubweave"]["key"].as_str()).expect("its key").to_owned();
                seen.entry(key).or_default().push(envelope);
                receipts.push(json!({ "Id": index.to_string(), "ReceiptHandle": message["ReceiptHandle"] }));
            }
            call("sqs", region, "AmazonSQS.DeleteMessageBatch", &json!({ "QueueUrl": url, "Entries": receipts }));
        }
    }
}

impl Drop for AwsCluster {
    fn drop(&mut self) {
        for child in &mut self.agents {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for number in 0..self.agents.len() {
                super::show(&format!("agent {number}"), &self.log(number));
            }
        }
    }
}

/// A call to the emulator in the usual account.
pub fn call(service: &str, region: &str, target: &str, body: &Value) -> Value {
    call_in(ACCOUNT, service, region, target, body)
}

/// A call to the emulator, which looks at the account and region of a signature and not at the signature.
fn call_in(account: &str, service: &str, region: &str, target: &str, body: &Value) -> Value {
    let credential = format!("{account}/20260101/{region}/{service}/aws4_request");
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date, Signature=00");
    let version = if service == "events" { "1.1" } else { "1.0" };
    let answer = Request::post("/", body.to_string())
        .header("content-type", &format!("application/x-amz-json-{version}"))
        .header("x-amz-target", target)
        .header("authorization", &authorization)
        .send(MiniStack::get().port);
    let answer = answer.expect_status(200);
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}
