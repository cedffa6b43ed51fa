"""A mail server for smtp_server.rs: aiosmtpd with TLS and a log-in.

server.py MODE CERTIFICATE KEY PASSWORD, where MODE is starttls, tls, or optional for STARTTLS and a log-in
that need not be used. It prints its port, and each mail that it
takes as a line of JSON. The name to log in with is latchkey.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

mode, certificate, key, password = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Printer:
    async def handle_DATA(self, server, session, envelope):
        data = envelope.content.decode("utf-8")
        mail = {"sender": envelope.mail_from, "recipients": envelope.rcpt_tos, "data": data}
        print(json.dumps(mail), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, given):
    right = (given.login, given.password) == (b"latchkey", password.encode())
    # Not handled: aiosmtpd answers a refusal by itself.
    return AuthResult(success=right, handled=False)


def conversation():
    settings = {"authenticator": authenticate, "auth_required": True}
    if mode == "starttls":
        return SMTP(Printer(), tls_context=context, require_starttls=True, **settings)
    if mode == "optional":
        return SMTP(Printer(), tls_context=context)
    return SMTP(Printer(), auth_require_tls=False, **settings)


async def main():
    loop = asyncio.get_running_loop()
    from_the_start = context if mode == "tls" else None
    server = await loop.create_server(conversation, "127.0.0.1", 0, ssl=from_the_start)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
