"""JSON schema of the configuration files, for editors: `make schema` writes it to workflow/schemas/.

The workflow itself validates with `cast.config`, from which this schema is generated.
"""

from __future__ import annotations

import json
from typing import Any

from cast.config import Config

FILE = {"type": "string", "description": "A YAML file, relative to the folder config/."}


def schema() -> dict[str, Any]:
    """The schema of one configuration file.

    A file may extend another, so no key is required of a single file; models may be named by their file.
    """
    found: dict[str, Any] = _without_required(Config.model_json_schema())
    found["properties"]["extends"] = FILE
    found["properties"]["student"] = {"anyOf": [found["properties"]["student"], FILE]}
    found["$defs"]["PretrainedModel"]["properties"]["architecture"]["anyOf"].append(FILE)
    return found


def _without_required(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_required(value) for key, value in node.items() if key != "required"}
    return [_without_required(item) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, sort_keys=True, ensure_ascii=False))
