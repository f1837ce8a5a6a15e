//! The table of prices: `config/prices.toml`, or another of its form.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The table that comes with the program.
const SHIPPED: &str = include_str!("../../config/prices.toml");

/// In US dollars.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub custom_event_million: f64,
    pub sqs_request_million: f64,
    pub dynamodb_write_million: f64,
    pub dynamodb_read_million: f64,
    pub dynamodb_storage_gb_month: f64,
    pub transfer_gb: f64,
}

/// What a region's section overrides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Override {
    custom_event_million: Option<f64>,
    sqs_request_million: Option<f64>,
    dynamodb_write_million: Option<f64>,
    dynamodb_read_million: Option<f64>,
    dynamodb_storage_gb_month: Option<f64>,
    transfer_gb: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// When they were looked up.
    pub date: String,
    default: Price,
    #[serde(default)]
    region: BTreeMap<String, Override>,
}

/// A table that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PriceError(String);

impl Prices {
    /// # Errors
    /// The text is no table of prices; says where.
    pub fn parse(text: &str) -> Result<Prices, PriceError> {
        toml::from_str(text).map_err(|error| PriceError(error.message().to_owned()))
    }

    /// The table that comes with the program.
    ///
    /// # Errors
    /// None that a test would let through.
    pub fn shipped() -> Result<Prices, PriceError> {
        Prices::parse(SHIPPED)
    }

    /// Of an AWS region.
    pub fn of(&self, region: &str) -> Price {
        let (all, own) = (self.default, self.region.get(region).copied().unwrap_or_default());
        Price {
            custom_event_million: own.custom_event_million.unwrap_or(all.custom_event_million),
            sqs_request_million: own.sqs_request_million.unwrap_or(all.sqs_request_million),
            dynamodb_write_million: own.dynamodb_write_million.unwrap_or(all.dynamodb_write_million),
            dynamodb_read_million: own.dynamodb_read_million.unwrap_or(all.dynamodb_read_million),
            dynamodb_storage_gb_month: own.dynamodb_storage_gb_month.unwrap_or(all.dynamodb_storage_gb_month),
            transfer_gb: own.transfer_gb.unwrap_or(all.transfer_gb),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_overrides_what_it_names_and_nothing_else() {
        let text = format!("{SHIPPED}\n[region.\"eu-central-1\"]\ndynamodb_write_million = 0.75\n");
        let prices = Prices::parse(&text).unwrap();
        let expected = Price { dynamodb_write_million: 0.75, ..prices.of("us-east-1") };
        assert_eq!(prices.of("eu-central-1"), expected);
        assert!(Prices::parse("date = \"x\"\nprice = 1\n").is_err());
    }
}
