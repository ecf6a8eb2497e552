// Uses the client that openapi-generator's `typescript-fetch` generates: node … URL KEY IMAGE IMAGE
import { readFileSync } from 'node:fs';
import { Configuration, ExplanationApi, InferenceApi, JobsApi } from './generated/typescript_fetch';

const [url, key, ...paths] = process.argv.slice(2);
const configuration = new Configuration({ accessToken: key, apiKey: key, basePath: url });

async function main() {
  const image = paths.map((path) => new Blob([readFileSync(path)]));
  const classified = await new InferenceApi(configuration).classify({ image });
  const labels = classified.results.map((result) => result.predictions?.[0].label);

  const explanation = new ExplanationApi(configuration);
  const jobs = new JobsApi(configuration);
  const filtersRequest = { filters: [0], imageSize: 32, steps: 2 };
  const job = await explanation.filters({ filtersRequest });
  const events = await jobs.followJob({ jobId: job.id });
  const finished = await jobs.getJob({ jobId: job.id });
  const artifact = await jobs.getArtifact({ jobId: job.id, name: 'filters.png' });

  const shown = await explanation.heatmap({ image: [image[0]] });
  const told = {
    artifact: Buffer.from(await artifact.arrayBuffer()).subarray(0, 4).toString('hex'),
    events: (events ?? '').split('event: state').length - 1,
    heatmap: shown.size > 1000,
    labels,
    state: finished.state,
  };
  process.stdout.write(JSON.stringify(told));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
