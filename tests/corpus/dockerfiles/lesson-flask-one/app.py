import subprocess

import flaskish

app = flaskish.App()


@app.route("/")
def index() -> str:
    return subprocess.check_output(["greet", "one"], text=True)


print(app.get("/"), end="")
