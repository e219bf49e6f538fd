// Sends 50 lines with winston-loki: winston_push.js URL json|protobuf
const winston = require('winston')
const LokiTransport = require('winston-loki')

const [url, encoding] = process.argv.slice(2)
let failure = null
const transport = new LokiTransport({
  host: url,
  json: encoding === 'json',
  batching: true,
  interval: 1,
  labels: { app: 'winston', encoding },
  gracefulShutdown: false,
  onConnectionError: error => { failure = error }
})
const logger = winston.createLogger({ transports: [transport] })
for (let i = 0; i < 50; i++) logger.info(`message ${i}`)
setTimeout(async () => {
  await transport.flush()
  if (failure) console.error('the push was refused:', failure)
  process.exit(failure ? 1 : 0)
}, 300)
