import subprocess
import sys

import flaskish

app = flaskish.App()


@app.route("/service")
def service() -> str:
    return subprocess.check_output(["greet", *sys.argv[1:]], text=True)


print(app.get("/service"), end="")
