//! What is refused before anything is touched, and the lock that keeps drills apart.

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::{
        Context, Error, agent,
        http::{self, Call, Listener},
        out, status,
    },
    config::Backend,
    drill::{
        experiment::Experiment,
        extension::{Named, Need},
    },
};

/// An agent forgets a runner that has not said a word for so long.
const TTL: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses an experiment that this topology, or its state just now, is not fit for.
pub async fn check(context: &Context, file: &Path, experiment: &Experiment) -> Result<(), Error> {
    for Named { name, key, line } in experiment.regions() {
        if context.config.region(&name).is_none() {
            let names: Vec<&str> = context.config.regions.iter().map(|region| region.name.as_str()).collect();
            let why = format!("no region of {}; it has {}", context.file, names.join(", "));
            return Err(Error::usage(format!("{}, line {line}: {key}: {name}: {why}", file.display())));
        }
    }
    let needs = experiment.extension.as_ref().map(|extension| extension.needs.as_slice()).unwrap_or_default();
    let injects = |words| experiment.activities().any(|activity| activity.is_command(words));
    let kills = injects(["agent", "kill"]);
    if (kills || injects(["fault", "inject"]) || needs.contains(&Need::Faults)) && !context.config.faults.enabled {
        return Err(Error::no(format!("the drill injects faults, and faults.enabled is false in {}", context.file)));
    }
    if needs.contains(&Need::Aws) && !context.config.regions.iter().any(|region| region.backend == Backend::Aws) {
        return Err(Error::no(format!("the drill needs a region on AWS, and {} has none", context.file)));
    }
    if kills || needs.contains(&Need::Supervisor) {
        for region in context.config.regions.iter().filter(|region| region.backend == Backend::Embedded) {
            if agent::running(region)?.is_none() {
                return Err(Error::no(format!(
                    "the drill kills agents, and {} is not run by `hubweave up` here: no {}",
                    region.name,
                    region.data_dir.join("agent.pid").display()
                )));
            }
        }
    }
    at_rest(context).await
}

/// Refuses where a region is out of service or has faults already: rollbacks would bring its users back, and clear these.
async fn at_rest(context: &Context) -> Result<(), Error> {
    let refused = |why: String| Error::no(format!("a drill begins when all regions serve: {why}"));
    let admins = context.admins();
    for answer in status::fetch(context, &admins).await {
        let status = answer.status.map_err(|error| refused(error.to_string()))?;
        let state = status["state"].as_str().unwrap_or("-");
        if state != "active" {
            return Err(refused(format!("{} is {state}", answer.region)));
        }
    }
    for listener in &admins {
        let answer: Value = context.http.json(listener, Call::get("/v1/faults")).await?;
        if answer["faults"].as_array().is_some_and(|faults| !faults.is_empty()) {
            let region = &listener.region;
            return Err(Error::no(format!("{region} has faults already: `hubweave fault list --region {region}`")));
        }
    }
    Ok(())
}

/// All regions, held for one run.
pub struct Lock {
    context: Context,
    body: Value,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Lock {
    /// Holds every region, in the order of the file, so that of two runners one gets none.
    ///
    /// # Errors
    /// Another drill runs.
    pub async fn acquire(context: &Context, drill: &str, id: &str) -> Result<Arc<Lock>, Error> {
        let body = json!({ "drill": drill, "id": id, "ttl_seconds": TTL.as_secs() });
        let (context, stop, tasks) = (context.clone(), CancellationToken::new(), TaskTracker::new());
        let lock = Arc::new(Lock { context, body, stop, tasks });
        for listener in lock.context.admins() {
            match lock.hold(&listener).await {
                Ok(()) => {}
                Err(error) if error.status() == Some(409) => {
                    lock.release().await;
                    return Err(Error::no(format!("one drill at a time: {error}")));
                }
                // An older build knows no lock; one that fell silent just now blocks nobody.
                Err(error) if matches!(error.status(), None | Some(404 | 405)) => {
                    out::note(format!("{}: not held for this drill: {error}", listener.region));
                }
                Err(error) => {
                    lock.release().await;
                    return Err(error.into());
                }
            }
        }
        let renewing = lock.clone();
        lock.tasks.spawn(async move {
            while !renewing.stop.is_cancelled() {
                tokio::select! {
                    () = tokio::time::sleep(RENEW_EVERY) => {}
                    () = renewing.stop.cancelled() => return,
                }
                let listeners = renewing.context.admins();
                // A dead agent remembers nothing, and is held again when it is back.
                join_all(listeners.iter().map(|listener| renewing.hold(listener))).await;
            }
        });
        Ok(lock)
    }

    async fn hold(&self, listener: &Listener) -> Result<(), http::Error> {
        self.context.http.done(listener, Call::post("/v1/drill", &self.body).timeout(TIMEOUT)).await
    }

    /// Lets go of all regions.
    pub async fn release(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let query = http::query(&[("id", self.body["id"].as_str().map(str::to_owned))]);
        let listeners = self.context.admins();
        let calls = listeners.iter().map(|listener| {
            let call = Call::delete(format!("/v1/drill{query}")).timeout(TIMEOUT);
            self.context.http.done(listener, call)
        });
        // Who does not answer forgets in a while.
        join_all(calls).await;
    }
}

/// Tells the agents what came out, for their metrics. Answers a note where one does not know what to do with it.
pub async fn tell(context: &Context, drill: &str, verdict: &str) -> Option<String> {
    let body = json!({ "drill": drill, "verdict": verdict, "at": crate::cli::now().to_rfc3339() });
    let listeners = context.admins();
    let calls = listeners.iter().map(|listener| {
        let call = Call::post("/v1/drills", &body).timeout(TIMEOUT);
        context.http.done(listener, call)
    });
    let untold = join_all(calls).await.into_iter().filter_map(Result::err).map(|error| error.region);
    let untold: Vec<String> = untold.collect();
    (!untold.is_empty()).then(|| format!("agents that were not told the verdict: {}", untold.join(", ")))
}
