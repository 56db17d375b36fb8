"""Serve conversations: a page to talk with the model in a browser, and known protocols for programs.

  aizuchi serve                               then open http://localhost:8998
  aizuchi serve --model ./moshiko --rows 4 --device cuda
  aizuchi serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --api-keys keys.txt

Only this machine can connect unless --host says otherwise. Browsers give a page the microphone on localhost and
over https only: for other machines use --tls-cert and --tls-key, or a proxy that speaks TLS. Without --model, the
model that comes with the package is used. Ctrl-C ends at once; SIGTERM lets conversations end first.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from aizuchi.cli.options import add_quantize, add_ring, ring_of
from aizuchi.errors import AizuchiError, require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m", "--model", help="folder or hub name, in transformers' layout or Kyutai's; 'random' babbles"
    )
    model.add_argument("--rows", type=int, default=4, help="conversations at the same time (default: 4)")
    model.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: float32 on a CPU"
    )
    add_quantize(model)
    add_ring(model)
    model.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    model.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    where = parser.add_argument_group("address")
    where.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    where.add_argument("--port", type=int, default=8998, help="port (default: 8998; 0 takes a free one)")
    where.add_argument("--tls-cert", metavar="FILE", help="certificate chain, for https")
    where.add_argument("--tls-key", metavar="FILE", help="its private key")
    where.add_argument("--behind-proxy", action="store_true", help="believe X-Forwarded-* of a local proxy")
    who = parser.add_argument_group("who may call")
    who.add_argument("--api-keys", metavar="FILE", help="one key a line; calls without one are refused")
    who.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="a name by which it is called"
    )
    who.add_argument(
        "--allow-origin",
        metavar="URL",
        action="append",
        default=[],
        help="a web page elsewhere that may connect, such as https://example.org; '*' for any",
    )
    bounds = parser.add_argument_group("limits")
    bounds.add_argument("--queue", type=int, default=64, help="callers that may wait (default: 64)")
    bounds.add_argument(
        "--max-minutes", type=float, default=60, help="longest conversation (default: 60 minutes)"
    )
    bounds.add_argument(
        "--idle-seconds", type=float, default=60, help="end a conversation without audio (default: 60)"
    )
    bounds.add_argument(
        "--resume-seconds", type=float, default=60, help="keep a dropped conversation (default: 60)"
    )
    bounds.add_argument(
        "--drain-seconds", type=float, default=30, help="let conversations end on SIGTERM (default: 30)"
    )
    parser.add_argument(
        "--echo",
        action="store_true",
        help="say what is heard, to measure the delay (aizuchi eval latency --server)",
    )
    parser.add_argument("--record", metavar="DIR", help="record every conversation there; the page says so")
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    _check(args)
    for package in ("starlette", "uvicorn", "websockets", "prometheus_client", "sphn"):
        require(package, extra="serve")
    from aizuchi.serve.server import listen, make_server, set_up_logs

    set_up_logs(args.log_format)
    sock = listen(args.host, args.port)  # a port that is taken is told before the model loads
    print("loading the model ...", flush=True)
    service, recorder = _service(args)
    server = make_server(service, args.tls_cert, args.tls_key, args.behind_proxy)
    scheme = "https" if args.tls_cert else "http"
    shown = "localhost" if args.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else args.host
    print(f"model: {service.name} ({service.description.splitlines()[0]})")
    if args.echo:
        print("an echo: callers hear themselves, to measure the delay")
    if service.recording:
        print(f"recording every conversation to {args.record}")
    if not args.api_keys and not _is_loopback(args.host):
        print("warning: other machines can connect, and no --api-keys are asked for")
    print(f"serving on {scheme}://{shown}:{sock.getsockname()[1]} (Ctrl-C ends)", flush=True)
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:
        pass
    finally:
        sock.close()
        if recorder is not None:
            recorder.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.rows <= 1024:
        raise AizuchiError(f"--rows must lie between 1 and 1024, not {args.rows}")
    if not 0 <= args.port <= 65535:
        raise AizuchiError(f"--port must lie between 0 and 65535, not {args.port}")
    if args.threads is not None and args.threads < 1:
        raise AizuchiError(f"--threads must be at least 1, not {args.threads}")
    ring_of(args)
    if bool(args.tls_cert) != bool(args.tls_key):
        raise AizuchiError("--tls-cert and --tls-key go together")
    for path in (args.tls_cert, args.tls_key, args.api_keys):
        if path and not os.path.isfile(path):
            raise AizuchiError(f"{path} does not exist")
    if args.max_minutes <= 0 or args.idle_seconds <= 0:
        raise AizuchiError("--max-minutes and --idle-seconds must be above 0")
    for name in ("queue", "resume_seconds", "drain_seconds"):
        if getattr(args, name) < 0:
            raise AizuchiError(f"--{name.replace('_', '-')} must not be negative")


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost")


def _service(args: argparse.Namespace) -> tuple[Any, Any]:
    import torch

    from aizuchi.serve.limits import Limits
    from aizuchi.serve.loading import load_served
    from aizuchi.serve.recording import Recorder
    from aizuchi.serve.scheduler import Scheduler
    from aizuchi.serve.security import LOOPBACK, Doors, Keys
    from aizuchi.serve.service import Service

    keys = Keys.read(args.api_keys) if args.api_keys else Keys()
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    served = load_served(args.model, dtype, args.device, args.quantize, args.rows, ring_of(args))
    limits = Limits(
        queue=args.queue,
        session_seconds=60 * args.max_minutes,
        idle_seconds=args.idle_seconds,
        resume_seconds=args.resume_seconds,
        drain_seconds=args.drain_seconds,
    )
    # A private server answers to its own names only; a public one to any, unless some are given.
    hosts = [*LOOPBACK, *args.allow_host] if _is_loopback(args.host) or args.allow_host else None
    config = served.model.config
    recorder = None
    if args.record:
        codec = config.audio_encoder_config
        recorder = Recorder(args.record, codec.sampling_rate, round(codec.sampling_rate / codec.frame_rate))
    scheduler = Scheduler(
        served.model,
        served.tokenizer,
        args.rows,
        limits,
        threads=args.threads,
        listener=recorder,
        echo=args.echo,
        engine=ring_of(args),
    )
    doors = Doors(keys, hosts, args.allow_origin)
    service = Service(
        scheduler,
        doors,
        served.name,
        served.description,
        served.random,
        recording=recorder is not None,
        sampling=scheduler.engine.sampling,
    )
    return service, recorder
