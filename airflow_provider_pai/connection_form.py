"""The fields of the connection form: one table, which the provider's metadata and the hook's form both use.

Airflow 3.2 and later read the metadata; earlier ones call the hook.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_pai.api.sources import KINDS

__all__ = ["CONNECTION_TYPE", "FIELDS", "FIELD_BEHAVIOUR"]

CONNECTION_TYPE = "pai"


def _field(label: str, description: str, kind: str = "string", **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}


FIELDS: dict[str, dict[str, Any]] = {
    "region": _field("Region", "Where the workspace is, such as cn-hangzhou."),
    "workspace_id": _field(
        "Workspace ID", "Digits, from the PAI console. Left empty, PAI uses the default workspace."
    ),
    "oss_endpoint": _field(
        "OSS endpoint",
        "For oss:// paths (default: oss-<region>.aliyuncs.com, in a VPC oss-<region>-internal).",
    ),
    "vpc": _field(
        "Use VPC endpoints", "Reach PAI, STS and OSS from inside a VPC of the same region.", "boolean"
    ),
    "credential_type": _field(
        "Credential type",
        f"{', '.join(KINDS)}. "
        "Left empty: the AccessKey above, with the security token below if there is one.",
        enum=list(KINDS),
    ),
    "security_token": _field(
        "Security token", "sts, ram_role_arn: of a temporary AccessKey.", format="password"
    ),
    "bearer_token": _field("Bearer token", "bearer: the token.", format="password"),
    "role_arn": _field("Role ARN", "ram_role_arn, oidc_role_arn: the RAM role to assume."),
    "role_session_name": _field(
        "Role session name",
        "ram_role_arn, oidc_role_arn: who appears in ActionTrail (default: airflow-provider-pai).",
    ),
    "role_session_expiration": _field(
        "Role session expiration",
        "ram_role_arn, oidc_role_arn, rsa_key_pair: seconds, 900 or more (default: 3600).",
    ),
    "policy": _field(
        "Policy", "ram_role_arn, oidc_role_arn, optional: JSON that narrows what the role may.", format="json"
    ),
    "external_id": _field("External ID", "ram_role_arn, optional: what the role's trust policy asks for."),
    "sts_endpoint": _field(
        "STS endpoint", "ram_role_arn, oidc_role_arn, rsa_key_pair (default: sts.<region>.aliyuncs.com)."
    ),
    "allow_sts_endpoint": _field(
        "Allow other STS endpoints",
        "Send credentials, and the OIDC token file, to an STS endpoint outside aliyuncs.com.",
        "boolean",
    ),
    "oidc_provider_arn": _field("OIDC provider ARN", "oidc_role_arn: the identity provider in RAM."),
    "oidc_token_file_path": _field(
        "OIDC token file",
        "oidc_role_arn: a path on workers and triggerers, as RRSA mounts it. STS receives what it holds.",
    ),
    "role_name": _field(
        "ECS RAM role", "ecs_ram_role, optional: the role's name; left empty, the instance names it."
    ),
    "public_key_id": _field("Public key ID", "rsa_key_pair: the id of the public key."),
    "private_key_file": _field("Private key file", "rsa_key_pair: a path on workers and triggerers."),
    "credentials_uri": _field("Credentials URI", "credentials_uri: where a temporary AccessKey is served."),
    "allow_http": _field(
        "Allow plain http", "Send keys unencrypted to a host that is not this machine.", "boolean"
    ),
    "console_url": _field(
        "Console link template",
        "Overrides a task's PAI link: an https:// or http:// address that may use {region}, {workspace_id}, "
        "{source_type}, {source_id}, {experiment_id} and {run_id}.",
    ),
}

FIELD_BEHAVIOUR: dict[str, Any] = {
    # Not the extra as well: Airflow 2's Test button does nothing where that is hidden.
    "hidden-fields": ["schema", "port"],
    "relabeling": {"login": "AccessKey ID", "password": "AccessKey secret", "host": "Endpoint override"},
    "placeholders": {
        "login": "LTAI…",
        "host": "left empty: https://aiworkspace.<region>.aliyuncs.com",
        "region": "cn-hangzhou",
        "workspace_id": "145883",
    },
}
