// What to do next, with commands that work as they stand once a token is put in.

import { h, snippet } from "./dom.js";
import { session } from "./session.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function firstDevice() {
  const origin = location.origin;
  return h("section.empty",
    h("h1", "No devices yet"),
    h("p", "A device needs a name in the registry and a credential. With an API token (",
      h("code", "admin_token"), " in the ready file of ", h("code", "headwater up"), ") both are one command each:"),
    snippet([
      `TOKEN=hwt_…`,
      `curl -s ${origin}/api/v1/devices -H "Authorization: Bearer $TOKEN" \\`,
      `  -H "Content-Type: application/json" -d '{"external_id": "pump-1", "name": "Pump 1"}'`,
      ``,
      `DEVICE=…   # "id" of the answer`,
      `curl -s ${origin}/api/v1/devices/$DEVICE/credentials -H "Authorization: Bearer $TOKEN" \\`,
      `  -H "Content-Type: application/json" -d '{}'`,
    ].join("\n")),
    h("p", "Then let it speak. The password is the one of the answer:"),
    snippet(mosquitto("$DEVICE", "$DEVICE")),
    h("p.hint", "In a hurry? ", h("code", "make demo"), " adds a fleet of simulated devices. This list fills by itself."));
}

export function firstTelemetry(device) {
  return h("section.empty.inset",
    h("h2", "Waiting for the first telemetry"),
    h("p", "This page shows it the moment it comes. Over MQTT, with the password of one of the device's credentials:"),
    snippet(mosquitto(device.id, device.id)),
    h("p", "Or over HTTP:"),
    snippet([
      `curl -s http://${location.hostname}:8081/v1/telemetry -H "Authorization: Bearer $PASSWORD" \\`,
      `  -H "Content-Type: application/json" -d '{"temperature": 21.5}'`,
    ].join("\n")),
    h("p.hint", "1883 and 8081 are the ports unless ", h("code", "headwater up"), " was told others."));
}

function mosquitto(device, user) {
  const slug = session()?.tenant?.slug ?? "tenant";
  return [
    `mosquitto_pub -h ${location.hostname} -p 1883 -q 1 -i ${user} \\`,
    `  -u ${user} -P "$PASSWORD" \\`,
    `  -t "d/${slug}/${device}/telemetry" -m ${quoted('{"temperature": 21.5, "humidity": 48}')}`,
  ].join("\n");
}
