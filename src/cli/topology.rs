//! The topology file, wherever it lies.

use crate::config::{Config, Error};

/// Reads a path, `-`, or what lies on AWS.
pub async fn load(file: &str) -> Result<Config, Error> {
    #[cfg(feature = "aws")]
    if ["ssm://", "s3://"].iter().any(|scheme| file.starts_with(scheme)) {
        let text = crate::aws::stored::read(file).await.map_err(|why| Error::unreadable(file, why))?;
        return Config::parse(&text, file, &|name| std::env::var(name).ok());
    }
    Config::load(file)
}
