from flask import Flask, escape, request

app = Flask(__name__)


@app.route("/")
def index():
    return "<h1>Index Page</h1>"


@app.route("/hello", methods=["GET", "POST"])
def hello():
    name = request.args.get("name", "World")
    return f"Hello, {escape(name)}! (method {request.method}, path {request.path})"


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=1234)
