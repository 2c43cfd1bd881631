"""Known vulnerabilities of what is installed here, by pip-audit: exit 1 where there are some.

Where its database cannot be reached, or does not know a package, that is said: skipped is not passed.

    make audit
"""

import json
import subprocess
import sys


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format", "json", "--timeout", "15"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"SKIPPED: nothing was audited ({reason})")
        return 0
    checked = [entry for entry in audited if "skip_reason" not in entry]
    for entry in checked:
        for found in entry["vulns"]:
            print(
                f"{entry['name']} {entry['version']}: {found['id']}, fixed in {found['fix_versions'] or 'nothing yet'}"
            )
    skipped = len(audited) - len(checked)
    if skipped:
        print(f"SKIPPED: {skipped} of {len(audited)} packages are not in the database that can be reached here")
    if checked:
        print(f"audited {len(checked)} packages")
    return int(any(entry["vulns"] for entry in checked))


if __name__ == "__main__":
    sys.exit(main())
