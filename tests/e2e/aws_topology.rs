//! A topology that lies on AWS.

use crate::harness::{US, aws::AwsCluster};

#[test]
fn a_topology_is_read_from_the_parameter_store_and_from_a_bucket() {
    let cluster = AwsCluster::describe("");
    let (name, file) = (format!("/{}/topology", cluster.name), format!("file://{}", cluster.file.display()));
    cluster.aws(US, &["ssm", "put-parameter", "--name", &name, "--type", "SecureString", "--value", &file]);
    cluster.aws(US, &["s3api", "create-bucket", "--bucket", &cluster.name]);
    let (key, body) = ("a/topology.toml", cluster.file.display().to_string());
    cluster.aws(US, &["s3api", "put-object", "--bucket", &cluster.name, "--key", key, "--body", &body]);

    let expected = cluster.run(&["check", "--json"]).expect_code(0).document();
    for location in [format!("ssm://{name}"), format!("ssm:/{name}"), format!("s3://{}/{key}", cluster.name)] {
        let checked = cluster.run_with(&location, &["check", "--json"]).expect_code(0).document();
        assert_eq!(checked["regions"], expected["regions"], "{location}");
    }
    for (location, why) in [
        (format!("ssm://{}", cluster.name), "ParameterNotFound"),
        (format!("s3://{}/b", cluster.name), "NoSuchKey"),
        (format!("s3://{}", cluster.name), "expected ssm://NAME or s3://BUCKET/KEY"),
    ] {
        let refused = cluster.run_with(&location, &["check"]).expect_code(2);
        assert!(refused.stderr.contains(&location) && refused.stderr.contains(why), "{}", refused.stderr);
    }
}
