//! What every command needs: the topology, the answer's form, and who listens where.

use super::{
    error::Error,
    http::{Http, Listener},
    out, topology,
};
use crate::config::{Backend, Config, Region};

/// Tried when neither `--config` nor `$HUBWEAVE_CONFIG` says anything.
const DEFAULT_FILE: &str = "config/local.toml";

/// The surroundings of one command.
#[derive(Clone)]
pub struct Context {
    pub config: Config,
    /// As the user named it, or the default.
    pub file: String,
    /// `--json`.
    pub json: bool,
    pub http: Http,
}

/// The file to read: `--config`, `$HUBWEAVE_CONFIG`, `config/local.toml`.
pub fn config_file(given: Option<String>) -> String {
    let from_environment = || std::env::var("HUBWEAVE_CONFIG").ok().filter(|file| !file.is_empty());
    given.or_else(from_environment).unwrap_or_else(|| DEFAULT_FILE.to_owned())
}

impl Context {
    /// Reads the file.
    pub async fn load(file: String, json: bool) -> Result<Context, Error> {
        let config = topology::load(&file).await.map_err(|problems| {
            // A checker of files in an editor or a pipeline gets what it asked for, whatever the answer is.
            Error::Config(file.clone(), problems)
        })?;
        Ok(Context::of(config, file, json))
    }

    /// With a topology at hand.
    pub fn of(config: Config, file: String, json: bool) -> Context {
        Context { config, file, json, http: Http::default() }
    }

    /// The region of this name, or a message with those that there are.
    pub fn region(&self, name: &str) -> Result<&Region, Error> {
        self.config.region(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.regions.iter().map(|region| region.name.as_str()).collect();
            Error::usage(format!("`{name}` is no region of {}; it has {}", self.file, names.join(", ")))
        })
    }

    /// Both ends of a link that the file has.
    pub fn link(&self, from: &str, to: &str) -> Result<(), Error> {
        self.region(from)?;
        self.region(to)?;
        match self.config.link(from, to).enabled {
            true => Ok(()),
            false => Err(Error::usage(format!("{} has no enabled link from {from} to {to}", self.file))),
        }
    }

    /// Where a region's operators go.
    pub fn admin(&self, region: &str) -> Result<Listener, Error> {
        Ok(self.admin_of(self.region(region)?))
    }

    /// Where a region's operators go.
    pub fn admin_of(&self, region: &Region) -> Listener {
        let token = self.config.auth.admin_token.clone();
        Listener { region: region.name.clone(), address: region.admin.clone(), backend: region.backend, token }
    }

    /// Where a region's services go.
    pub fn api(&self, region: &str) -> Result<Listener, Error> {
        let region = self.region(region)?;
        let token = self.config.auth.api_token.clone();
        match region.api.clone() {
            Some(address) => Ok(Listener { region: region.name.clone(), address, backend: region.backend, token }),
            None if region.backend == Backend::Aws => Err(Error::usage(format!(
                "{} is on AWS and has no `api` listener in {}: put events on its bus (`aws events put-events`), or give \
                 the region an `api` and restart its agents",
                region.name, self.file
            ))),
            None => Err(Error::usage(format!("{} has no `api` listener in {}", region.name, self.file))),
        }
    }

    /// All operators' listeners, in the order of the file.
    pub fn admins(&self) -> Vec<Listener> {
        self.config.regions.iter().map(|region| self.admin_of(region)).collect()
    }

    /// Prints the document, or what people read of it.
    pub fn print(&self, document: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { out::json(document) } else { out::line(text()) }
    }
}
