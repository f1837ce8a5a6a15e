//! `provision`: what an AWS region needs, written, compared, made, removed.

use std::time::Duration;

use serde::Serialize;

use super::{
    Context, Error,
    args::{Provision, ProvisionFormat},
    out::{self, Align},
};
use crate::{
    aws::{
        Clients,
        clients::Options,
        failure,
        names::Names,
        provision::{
            Place, Plan,
            apply::{Action, Change, Provisioner},
            iam, text,
        },
    },
    config::{Aws, Region},
};

/// Of one call. Making things is slower than using them.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// The SDK's own retries: each step can be made again.
const RETRIES: u32 = 3;

#[derive(Serialize)]
struct Report<'a> {
    region: &'a str,
    account: &'a str,
    changes: &'a [Change],
}

pub async fn provision(context: &Context, args: Provision) -> Result<(), Error> {
    let region = context.region(&args.region)?;
    let Some(aws) = &region.aws else {
        return Err(Error::usage(format!("region {} is embedded: there is nothing to provision", region.name)));
    };
    let action = match (args.apply, args.diff, args.destroy) {
        (true, ..) => Action::Apply,
        (_, true, _) => Action::Compare,
        (.., true) => Action::Destroy,
        _ => return write(context, region, aws, args.format.unwrap_or(ProvisionFormat::Terraform)).await,
    };
    let clients = open(aws, &region.name).await;
    let plan = plan(context, region, place(&clients, aws).await?)?;
    let changes = Provisioner { clients: &clients, plan: &plan }.run(action).await.map_err(Error::no)?;
    let report = Report { region: &region.name, account: &plan.place.account, changes: &changes };
    context.print(&report, || table(&changes))?;
    let settled = action == Action::Destroy || changes.iter().all(Change::is_settled);
    if settled { Ok(()) } else { Err(Error::Said) }
}

async fn open(aws: &Aws, region: &str) -> Clients {
    let options = Options { attempt_timeout: ATTEMPT_TIMEOUT, retries: RETRIES, requests: None };
    Clients::open(aws, region, &options).await
}

/// Where the region lies: partition and account of whoever calls.
async fn place(clients: &Clients, aws: &Aws) -> Result<Place, Error> {
    let answer = clients.sts.get_caller_identity().send().await;
    let answer = answer.map_err(|error| Error::no(format!("no usable credentials: {}", failure(&error))))?;
    let (arn, account) = (answer.arn().unwrap_or_default(), answer.account().unwrap_or_default());
    let partition = arn.split(':').nth(1).unwrap_or("aws").to_owned();
    Ok(Place { partition, region: aws.region.clone(), account: account.to_owned() })
}

fn plan(context: &Context, region: &Region, place: Place) -> Result<Plan, Error> {
    Plan::of(&context.config, region, place).map_err(Error::usage)
}

async fn write(context: &Context, region: &Region, aws: &Aws, format: ProvisionFormat) -> Result<(), Error> {
    // JSON is what these tools read, so `--json` says nothing new.
    match format {
        ProvisionFormat::Terraform => {
            let place = Place { region: aws.region.clone(), ..text::terraform_place() };
            out::json(&text::terraform(&plan(context, region, place)?))
        }
        ProvisionFormat::Cloudformation => {
            out::json(&text::cloudformation(&plan(context, region, text::cloudformation_place())?))
        }
        ProvisionFormat::Iam => {
            let place = match known_place(region, aws) {
                Some(place) => place,
                None => place(&open(aws, &region.name).await, aws).await?,
            };
            let plan = plan(context, region, place)?;
            out::json(&iam::policies(&context.config, region, &plan).map_err(Error::usage)?)
        }
    }
}

/// The account that the file itself tells, so that policies can be written without asking AWS.
fn known_place(region: &Region, aws: &Aws) -> Option<Place> {
    let names = Names::of(region)?;
    let role = aws.role_arn.as_deref().map(|arn| arn.split(':').collect::<Vec<_>>());
    let of_role = role.and_then(|parts| Some((parts.get(1)?.to_string(), parts.get(4)?.to_string())));
    let of_hub = || Some((names.hub.split(':').nth(1)?.to_owned(), names.hub_account()?.to_owned()));
    let (partition, account) = of_role.or_else(of_hub)?;
    Some(Place { partition, region: aws.region.clone(), account })
}

fn table(changes: &[Change]) -> String {
    let columns = [("kind", Align::Left), ("name", Align::Left), ("found", Align::Left), ("done", Align::Left)];
    let mut rows = Vec::new();
    for change in changes {
        rows.push([change.kind, change.name.as_str(), change.found, change.done].map(str::to_owned).to_vec());
        rows.extend(change.differences.iter().map(|difference| vec![String::new(), format!("  {difference}")]));
    }
    out::table(&columns, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_account_is_taken_from_the_role_or_the_hub_where_the_file_has_one() {
        let place = |hub: &str, more: &str| {
            let text = format!("[[region]]\nname = \"eu\"\nbackend = \"aws\"\n[region.aws]\nhub = \"{hub}\"\n{more}");
            let config = Config::parse(&text, "x.toml", &|_| None).unwrap();
            let region = &config.regions[0];
            known_place(region, region.aws.as_ref().unwrap()).map(|place| (place.partition, place.account))
        };
        let expected = |account: &str| Some(("aws".to_owned(), account.to_owned()));
        assert_eq!(place("hub", ""), None);
        assert_eq!(place("arn:aws:events:eu:111122223333:event-bus/hub", ""), expected("111122223333"));
        assert_eq!(place("hub", "role_arn = \"arn:aws:iam::222222222222:role/x\"\n"), expected("222222222222"));
    }

    #[test]
    fn what_differs_stands_under_its_resource() {
        let change = Change {
            kind: "queue",
            name: "q".to_owned(),
            found: "different",
            done: "none",
            differences: vec!["VisibilityTimeout is 30, planned 20".to_owned()],
        };
        assert!(!change.is_settled());
        assert!(table(&[change]).lines().nth(2).unwrap().contains("planned 20"));
    }
}
