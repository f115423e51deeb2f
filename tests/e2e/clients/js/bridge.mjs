// MQTT.js, told what to do by lines of JSON on standard input: {"id", "call", ...}; answers {"id", "ok"} or {"id", "error"},
// and says {"message"} and {"connected"} by itself. Payloads and binary properties are base64.

import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

let client;
let entered = false;

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const packet = ({ topic, payload, qos, retain, properties }) => ({
    topic,
    payload: Buffer.from(payload, "base64"),
    options: { qos, retain, properties: binary(properties, (text) => Buffer.from(text, "base64")) },
});
const binary = (properties, change) =>
    properties?.correlationData === undefined
        ? properties
        : { ...properties, correlationData: change(properties.correlationData) };

const calls = {
    connect({ url, options, will, ca }) {
        if (will) {
            const { topic, payload, options: more } = packet(will);
            options.will = { topic, payload, ...more };
        }
        if (ca) options.ca = readFileSync(ca);
        return new Promise((resolve, reject) => {
            client = mqtt.connect(url, options);
            client.on("connect", (connack) => {
                entered = true;
                say({ connected: true });
                resolve(connack.sessionPresent);
            });
            client.on("error", (error) => {
                if (!entered) client.end(true); // later it connects anew by itself
                reject(error);
            });
            client.on("message", (topic, payload, { qos, retain, properties }) =>
                say({
                    message: {
                        topic, qos, retain,
                        payload: payload.toString("base64"),
                        properties: binary(properties, (buffer) => buffer.toString("base64")),
                    },
                }),
            );
        });
    },
    async subscribe({ filter, qos }) {
        return (await client.subscribeAsync(filter, { qos }))[0]?.qos;
    },
    async publish({ message }) {
        const { topic, payload, options } = packet(message);
        await client.publishAsync(topic, payload, options);
    },
    async disconnect() {
        await client.endAsync();
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const { id, call, ...given } = JSON.parse(line);
    calls[call](given).then(
        (ok) => say({ id, ok: ok ?? null }),
        (error) => say({ id, error: { code: error.code ?? null, message: `${error.message ?? error}` } }),
    );
}
process.exit(0);
