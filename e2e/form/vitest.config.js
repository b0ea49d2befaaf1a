import { fileURLToPath } from 'node:url';
import vue from '@vitejs/plugin-vue';
import { defineConfig } from 'vitest/config';

const source = (folder) => fileURLToPath(new URL(`sources/${folder}`, import.meta.url));

// The tests look at no style, and Sass would have to be installed for those of the components.
const withoutStyles = {
  name: 'without-styles',
  enforce: 'pre',
  transform: (code, id) => (id.endsWith('.vue') ? code.replace(/<style[^]*?<\/style>/g, '') : undefined),
};

export default defineConfig({
  plugins: [withoutStyles, vue()],
  resolve: {
    alias: [
      { find: /^@shell\/components\/(Questions\/(Reference|CloudCredential)|YamlEditor|CodeMirror|form\/FileSelector)$/, replacement: source('../unused.vue') },
      { find: '@shell', replacement: source('shell') },
      { find: '@components', replacement: source('shell/rancher-components') },
      { find: '@kubewarden', replacement: source('kubewarden') },
    ],
    extensions: ['.ts', '.js', '.vue', '.json'],
  },
  test: { environment: 'jsdom', include: ['*.test.js'], testTimeout: 120_000 },
});
