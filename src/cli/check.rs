//! `check` and `env`: what the file says, without asking any agent.

use super::{Context, Error, out};
use crate::config;

pub fn check(context: &Context) -> Result<(), Error> {
    let explanation = config::explain(&context.config);
    context.print(&explanation, || explanation.to_string().trim_end().to_owned())
}

/// One `NAME=VALUE` a line, for `env $(hubweave env) chaos run ...`.
pub fn env(context: &Context) -> Result<(), Error> {
    let variables = variables(context);
    if context.json {
        let object: serde_json::Map<_, _> = variables.into_iter().map(|(name, value)| (name, value.into())).collect();
        return out::json(&object);
    }
    variables.into_iter().try_for_each(|(name, value)| out::line(format!("{name}={value}")))
}

/// Where the file and the regions' listeners are; regions by name and by their place in the file.
pub fn variables(context: &Context) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let absolute = std::path::absolute(&context.file).ok().filter(|_| context.file != "-");
    if let Some(file) = absolute {
        variables.push(("HUBWEAVE_CONFIG".to_owned(), file.display().to_string()));
    }
    for (index, region) in context.config.regions.iter().enumerate() {
        let place = format!("HUBWEAVE_REGION_{}", index + 1);
        variables.push((place.clone(), region.name.clone()));
        let name = region.name.to_uppercase().replace('-', "_");
        if let Some(api) = &region.api {
            variables.push((format!("HUBWEAVE_API_{name}"), api.to_string()));
            variables.push((format!("{place}_API"), api.to_string()));
        }
        variables.push((format!("HUBWEAVE_ADMIN_{name}"), region.admin.to_string()));
        variables.push((format!("{place}_ADMIN"), region.admin.to_string()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_after_regions_in_upper_case() {
        let text = "[[region]]\nname = \"eu-central-1\"\n";
        let config = config::Config::parse(text, "x", &|_| None).expect("a valid file");
        let variables = variables(&Context::of(config, "x.toml".to_owned(), false));
        assert!(variables.contains(&("HUBWEAVE_API_EU_CENTRAL_1".to_owned(), "127.0.0.1:7401".to_owned())));
        assert!(variables.contains(&("HUBWEAVE_ADMIN_EU_CENTRAL_1".to_owned(), "127.0.0.1:7501".to_owned())));
        assert!(variables.contains(&("HUBWEAVE_REGION_1".to_owned(), "eu-central-1".to_owned())));
        assert!(variables.contains(&("HUBWEAVE_REGION_1_ADMIN".to_owned(), "127.0.0.1:7501".to_owned())));
        assert!(variables.iter().any(|(name, value)| name == "HUBWEAVE_CONFIG" && value.starts_with('/')));
    }
}
